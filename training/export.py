"""From a trained model to its files: one look at the test split, calibration on validation, bundle or weights."""

from __future__ import annotations

import datetime
import platform
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from pgn import __version__
from pgn.bundle import BackboneRef, Manifest, read_bundle, write_atomically, write_bundle
from pgn.errors import ArtefactError, PgnError, one_line
from pgn.method.generator import Generator, PromptGenerator
from pgn.method.head import Head
from training.calibration import UNKNOWN_PERCENTILE, fit_temperature, unknown_threshold
from training.config import TrainConfig, command
from training.data.images import load_split, warn_of_shared
from training.disk import clear_disk_errors
from training.features import EVAL_BATCH, plain_features
from training.heads import start_head
from training.methods import METHODS
from training.methods.prompted import PromptedAdapter
from training.model import AdaptedClassifier
from training.result import WEIGHTS_FILE, RunResult, backbone_parameters, count_parameters, read_result
from training.run import Progress, config_of_bundle
from training.scores import logits_of, score
from training.setting import Setting

BACKBONE_DIGEST = "backbone_digest"  # what the weights' file says of where it belongs


def export(setting: Setting, model: AdaptedClassifier, progress: Progress) -> RunResult:
    """Score `model`, which carries its best epoch's weights, and write its bundle or weights into the run's folder."""
    config, method, head = setting.config, METHODS[setting.config.method], model.head.plain()
    test = load_split(setting.dataset, "test", setting.backbone.spec.preprocess)
    warn_of_shared(setting.dataset, test, "test", training=setting.train, validation=setting.val)
    sources = setting.dataset.class_sources
    logits = logits_of(setting.backbone, model.adapter, head, setting.val)
    tested = logits_of(setting.backbone, model.adapter, head, test)
    probed = setting.probe.head()(plain_features(setting.backbone, test, config.cache))
    adapted = count_parameters(p for group in method.groups(model.adapter, config) for p in group["params"])
    result = RunResult(
        method=config.method,
        dataset=config.name or setting.dataset.name,
        specs=[*config.dataset],
        seed=config.seed,
        bundle=None,
        weights=None if method.served else WEIGHTS_FILE,
        reach=method.reach,
        input_only=method.reach == "input",
        served=method.served,
        trained_parameters=adapted + count_parameters(p for p in model.head.parameters() if p.requires_grad),
        adapted_parameters=adapted,
        backbone_parameters=backbone_parameters(setting.backbone),
        classes=len(setting.dataset.classes),
        split_sizes={"train": len(setting.train), "val": len(setting.val), "test": len(test)},
        epochs=len(progress.history),
        best_epoch=progress.best_epoch,
        seconds=round(_seconds(setting, progress), 1),
        val=score(logits, setting.val.labels, sources).brief(),
        test=score(tested, test.labels, sources).brief(),
        linear_probe={
            "C": setting.probe.strength,
            "images": setting.probe.images,
            "val": setting.probe_val.brief(),
            "test": score(probed, test.labels, sources).brief(),
        },
    )
    with clear_disk_errors(config.out):
        if not method.served:
            write_atomically(
                config.out / WEIGHTS_FILE, save(_weights(model), {BACKBONE_DIGEST: setting.backbone.digest})
            )
            return result
        bundle = _write_bundle(setting, model, head, logits, result)
        return result.model_copy(update={"bundle": bundle.name})


def _seconds(setting: Setting, progress: Progress) -> float:
    """Of this run, and of the one that had to be finished before it."""
    first = METHODS[setting.config.method].first(setting)
    before = read_result(first.out) if first else None
    return sum(record["seconds"] for record in progress.history) + (before.seconds if before else 0.0)


def load_weights(setting: Setting, file: Path) -> AdaptedClassifier:
    """The trained model of a run whose method is not served, from its weights' file.

    Raises:
        ArtefactError: The file is missing, damaged, of another model or another backbone.
    """
    model = AdaptedClassifier(METHODS[setting.config.method].start(setting), start_head(setting))
    try:
        with safe_open(file, "pt") as opened:
            trained_on = (opened.metadata() or {}).get(BACKBONE_DIGEST)  # files of earlier versions do not say
            model.load_state_dict({name: opened.get_tensor(name) for name in opened.keys()})  # noqa: SIM118 (no dict)
    except (OSError, RuntimeError, SafetensorError) as error:
        raise ArtefactError(f"{file} cannot be read: {one_line(error)}") from error
    if trained_on not in (None, setting.backbone.digest):
        raise ArtefactError(
            f"{file} was trained on backbone {trained_on[:16]}…, not on {setting.backbone.digest[:16]}…",
            hint="give that backbone as --backbone",
        )
    return model.to(setting.device)


def _weights(model: AdaptedClassifier) -> dict[str, Tensor]:
    """The model's state without BatchNorm's counters, which nothing reads and which a resumed run counts otherwise."""
    state = model.state_dict().items()
    return {name: tensor.contiguous() for name, tensor in state if not name.endswith("num_batches_tracked")}


def _write_bundle(setting: Setting, model: AdaptedClassifier, head: Head, logits: Tensor, result: RunResult) -> Path:
    """The bundle of a served method; `logits` are those of validation, (V, C)."""
    assert isinstance(model.adapter, PromptedAdapter)
    generator, labels = model.adapter.generator, setting.val.labels
    temperature = fit_temperature(logits, labels)
    manifest = Manifest(
        dataset=result.dataset,
        classes=setting.dataset.classes,
        class_sources=setting.dataset.class_sources,
        template=setting.template,
        method=result.method,
        generator=generator.spec,
        head=head.spec,
        backbone=BackboneRef(name=setting.backbone.spec.name, digest=setting.backbone.digest),
        temperature=temperature,
        unknown_threshold=unknown_threshold(logits, labels, temperature),
        metrics=_metrics(result),
        training={"command": command(setting.config), "config": setting.config.model_dump(mode="json")},
        versions=_versions(),
        licence=setting.dataset.licence,
        created=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    )
    _remove_earlier_tries(setting.config, result.dataset)
    return write_bundle(setting.config.out, manifest, _tensors(setting, generator, head))


def _remove_earlier_tries(config: TrainConfig, dataset: str) -> None:
    """Of this very run, whose last write failed; whatever else lies in the folder stays."""
    for path in config.out.glob(f"{dataset}.*.safetensors"):
        with suppress(PgnError):
            if config_of_bundle(read_bundle(path)) == config:
                path.unlink()


def _metrics(result: RunResult) -> dict[str, Any]:
    return {
        "split_sizes": result.split_sizes,
        "seed": result.seed,
        "epochs": result.epochs,
        "epoch": result.best_epoch,
        "val": result.val,
        "test": result.test,
        "linear_probe": result.linear_probe,
        "unknown_percentile": UNKNOWN_PERCENTILE,
        "train_seconds": round(result.seconds),
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
def _mean_mixture(setting: Setting, generator: PromptGenerator) -> Tensor:
    """(N) share of each library token in the prompts, over all training images; sums to 1."""
    total = torch.zeros(generator.spec.library_size, dtype=torch.float64)
    for pixels in setting.train.in_parts(EVAL_BATCH):
        total += generator.mixture(setting.backbone.normalise(pixels)).mean(1).sum(0).cpu()
    return total / len(setting.train)


def _versions() -> dict[str, str]:
    packages = ("torch", "open_clip_torch", "timm", "scikit-learn", "numpy", "pillow")
    return {"pgn-serve": __version__, "python": platform.python_version(), **{name: version(name) for name in packages}}
