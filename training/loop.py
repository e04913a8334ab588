"""The training loop: config in, bundle out; reads from top to bottom.

The frozen backbone is run, never trained: images' tokens are made without gradients, and the gradient passes through
the tower into prompts, generator and library. Validation chooses the epoch; the test split is touched once, by
`export`, after the last step.
"""

from __future__ import annotations

import logging
import math
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from pgn.errors import SetupError
from pgn.method.backbone import FrozenBackbone, load_backbone
from training.config import TrainConfig
from training.curves import draw_curves
from training.data.augment import shift_and_flip
from training.data.batches import epoch_batches
from training.data.dataset import Dataset
from training.data.images import Images, load_split
from training.data.registry import open_datasets
from training.export import export
from training.features import plain_features
from training.methods import METHODS
from training.methods.linear_probe import LinearProbe, fit_probe
from training.model import PromptedClassifier
from training.run import Progress, RunFolder, clear_disk_errors
from training.scores import Scores, logits_of, score

CHECKPOINT_SECONDS = 30.0  # at least so often, and after every epoch
FEATURE_CACHE = Path(".cache/features")

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Setting:
    """What stays the same during a run."""

    config: TrainConfig
    dataset: Dataset
    backbone: FrozenBackbone
    train: Images
    val: Images
    probe: LinearProbe

    @property
    def flip(self) -> bool:
        """Whether images are mirrored at random."""
        return self.dataset.flip if self.config.flip is None else self.config.flip


def train(config: TrainConfig) -> Path:
    """Train, and return the path of the bundle.

    Beside it in `config.out` stand config.json, log.jsonl (one line an epoch), curves.png and result.json. Run again
    after an interruption, it goes on from the last checkpoint and ends with the same bundle as if it had never
    stopped; run again after its end, it returns at once.

    Raises:
        UsageError: `config.out` belongs to a run with another config.
        DataInvalid: The images cannot be trained on.
        SetupError: The loss is no longer a number; the disk is full (DiskFull).
        ArtefactError: The backbone or the checkpoint does not verify.
    """
    run = RunFolder(config)
    if bundle := run.finished():
        say(f"{config.out} is a finished run; its bundle is {bundle.name}")
        return bundle
    torch.manual_seed(config.seed)
    setting = prepare(config)
    method = METHODS[config.method]
    generator = method.start(method.spec(config, setting.backbone))
    model = PromptedClassifier(generator, setting.probe).to(next(setting.backbone.parameters()).device)
    head = {"params": [model.weight, model.bias], "lr": config.recipe.head_rate, "weight_decay": config.weight_decay}
    optimizer = torch.optim.AdamW([*method.groups(generator, config), head])
    peaks = [group["lr"] for group in optimizer.param_groups]

    progress = run.resume(model, optimizer)
    if progress.step:
        say(f"going on from step {progress.step}")
    groups = data_set_of_each(setting)
    steps = len(epoch_batches(groups, config.recipe.batch_size, seed=config.seed, epoch=0))
    total = steps * config.recipe.epochs
    bar = tqdm(total=total, initial=progress.step, unit="step", disable=not sys.stderr.isatty(), dynamic_ncols=True)
    saved = started = time.monotonic()
    while progress.step < total:
        epoch, position = divmod(progress.step, steps)
        batches = epoch_batches(groups, config.recipe.batch_size, seed=config.seed, epoch=epoch)
        for batch in batches[position:]:
            factor = rate_factor(progress.step, total, config.warmup)
            for group, peak in zip(optimizer.param_groups, peaks, strict=True):
                group["lr"] = peak * factor
            loss, hits = train_step(setting, model, optimizer, batch, progress.step)
            if not math.isfinite(loss):
                raise SetupError(
                    f"the loss is {loss} at step {progress.step + 1} of {total}",
                    hint="lower the rates, e.g. --library-rate, and give another --out; the last checkpoint is kept",
                )
            progress.add_batch(loss, hits, len(batch))
            bar.set_postfix_str(f"loss {progress.loss_sum / progress.seen:.3f}, acc {progress.hits / progress.seen:.3f}")
            bar.update()
            if time.monotonic() - saved > CHECKPOINT_SECONDS:
                run.save(progress, model, optimizer)
                saved = time.monotonic()
        scores = validate(setting, model)
        progress.seconds += time.monotonic() - started
        started = time.monotonic()
        close_epoch(progress, model, scores, config.recipe.epochs)
        run.save(progress, model, optimizer)
    bar.close()

    model.load_state_dict(progress.best)
    with clear_disk_errors(config.out):
        draw_curves(progress.history, setting.probe_val_top1, config.out / "curves.png")
        bundle = export(setting, model, progress)
    run.finish(bundle)
    say(f"bundle {bundle}")
    return bundle
