"""From a trained model to its bundle: calibration on validation, one look at the test split, manifest."""

from __future__ import annotations

import datetime
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pgn import __version__
from pgn.bundle import BackboneRef, Manifest, write_bundle
from pgn.method.generator import Generator, PromptGenerator
from pgn.method.head import Head
from training.calibration import UNKNOWN_PERCENTILE, fit_temperature, unknown_threshold
from training.config import command
from training.data.images import load_split
from training.disk import clear_disk_errors
from training.features import EVAL_BATCH, plain_features
from training.methods.prompted import PromptedAdapter
from training.model import AdaptedClassifier
from training.run import Progress
from training.scores import Scores, logits_of, score
from training.setting import Setting


def export(setting: Setting, model: AdaptedClassifier, progress: Progress) -> Path:
    """Write the bundle of `model`, which carries its best epoch's weights, into the run's folder."""
    assert isinstance(model.adapter, PromptedAdapter)
    generator, head = model.adapter.generator, model.head.plain()
    logits = logits_of(setting.backbone, model.adapter, head, setting.val)
    temperature = fit_temperature(logits, setting.val.labels)
    manifest = Manifest(
        dataset=setting.config.name or setting.dataset.name,
        classes=setting.dataset.classes,
        class_sources=setting.dataset.class_sources,
        template=setting.template,
        method=setting.config.method,
        generator=generator.spec,
        head=head.spec,
        backbone=BackboneRef(name=setting.backbone.spec.name, digest=setting.backbone.digest),
        temperature=temperature,
        unknown_threshold=unknown_threshold(logits, setting.val.labels, temperature),
        metrics=_metrics(
            setting, model, head, progress, val=score(logits, setting.val.labels, setting.dataset.class_sources)
        ),
        training={"command": command(setting.config), "config": setting.config.model_dump(mode="json")},
        versions=_versions(),
        licence=setting.dataset.licence,
        created=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    )
    with clear_disk_errors(setting.config.out):
        return write_bundle(setting.config.out, manifest, _tensors(setting, generator, head))


def _metrics(
    setting: Setting, model: AdaptedClassifier, head: Head, progress: Progress, *, val: Scores
) -> dict[str, Any]:
    test = load_split(setting.dataset, "test", setting.backbone.spec.preprocess)
    sources = setting.dataset.class_sources
    probe_logits = setting.probe.head()(plain_features(setting.backbone, test, setting.config.cache))
    tested = logits_of(setting.backbone, model.adapter, head, test)
    return {
        "split_sizes": {"train": len(setting.train), "val": len(setting.val), "test": len(test)},
        "seed": setting.config.seed,
        "epochs": len(progress.history),
        "epoch": progress.best_epoch,
        "val": val.brief(),
        "test": score(tested, test.labels, sources).brief(),
        "linear_probe": {
            "C": setting.probe.strength,
            "val": setting.probe_val.brief(),
            "test": score(probe_logits, test.labels, sources).brief(),
        },
        "unknown_percentile": UNKNOWN_PERCENTILE,
        "train_seconds": round(sum(record["seconds"] for record in progress.history)),
    }


def _tensors(setting: Setting, generator: Generator, head: Head) -> dict[str, np.ndarray]:
    weights = {
        f"generator.{name}": tensor
        for name, tensor in generator.state_dict().items()
        if not name.endswith("num_batches_tracked")  # of no use in eval mode
    }
    if isinstance(generator, PromptGenerator):
        weights["profile.mixture"] = _mean_mixture(setting, generator)
    weights["head.weight"] = head.weight
    if head.bias is not None:
        weights["head.bias"] = head.bias
    return {name: tensor.detach().cpu().float().numpy() for name, tensor in weights.items()}


@torch.inference_mode()
def _mean_mixture(setting: Setting, generator: PromptGenerator) -> torch.Tensor:
    """(N) share of each library token in the prompts, over all training images; sums to 1."""
    total = torch.zeros(generator.spec.library_size, dtype=torch.float64)
    for part in torch.arange(len(setting.train)).split(EVAL_BATCH):
        inputs = setting.backbone.normalise(setting.train.pixels(part))
        total += generator.mixture(inputs).mean(1).sum(0).cpu()
    return total / len(setting.train)


def _versions() -> dict[str, str]:
    packages = ("torch", "open_clip_torch", "timm", "scikit-learn", "numpy", "pillow")
    return {"pgn-serve": __version__, "python": platform.python_version(), **{name: version(name) for name in packages}}
