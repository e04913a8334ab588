"""The training loop: config in, bundle out; reads from top to bottom.

The frozen backbone is run, never trained: images' tokens are made without gradients, and the gradient passes through
the tower into prompts, generator and library. Validation chooses the epoch; the test split is touched once, by
`export`, after the last step.
"""

from __future__ import annotations

import math
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from pgn.errors import SetupError
from training.config import TrainConfig
from training.curves import draw_curves
from training.data.augment import shift_and_flip
from training.data.batches import epoch_batches
from training.export import export
from training.heads import start_head
from training.methods import METHODS
from training.model import AdaptedClassifier
from training.patches import draw_kept
from training.run import RunFolder, finished_bundle
from training.scores import Scores, logits_of, score
from training.setting import Setting, prepare

CHECKPOINT_SECONDS = 30.0  # at least so often, and after every epoch


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
    if bundle := finished_bundle(config.out):
        _say(f"{config.out} holds a finished run; its bundle is {bundle.name}")
        return bundle
    recipe = config.recipe
    setting = prepare(config)
    _say(f"linear probe: val {setting.probe_val.balanced:.4f} (C {setting.probe.strength:g})")
    torch.manual_seed(config.seed)
    method = METHODS[config.method]
    model = AdaptedClassifier(method.start(setting), start_head(setting)).to(setting.device)
    learned = [parameter for parameter in model.head.parameters() if parameter.requires_grad]
    head = {"params": learned, "lr": recipe.head_rate, "weight_decay": config.weight_decay}
    optimizer = torch.optim.AdamW([*method.groups(model.adapter, config), head])
    peaks = [group["lr"] for group in optimizer.param_groups]
    progress = run.resume(model, optimizer)

    groups = setting.groups()
    steps = len(epoch_batches(groups, recipe.batch_size, seed=config.seed, epoch=0))
    total = steps * recipe.epochs
    saved = time.monotonic()
    with tqdm(total=total, initial=progress.step, unit="step", disable=not sys.stderr.isatty()) as bar:
        while progress.step < total:
            epoch, position = divmod(progress.step, steps)
            started = time.monotonic()
            for batch in epoch_batches(groups, recipe.batch_size, seed=config.seed, epoch=epoch)[position:]:
                factor = rate_factor(progress.step, total, config.warmup)
                for group, peak in zip(optimizer.param_groups, peaks, strict=True):
                    group["lr"] = peak * factor
                loss, hits = train_step(setting, model, optimizer, batch, progress.step)
                progress.add_batch(loss, hits, len(batch))
                bar.set_postfix_str(f"loss {progress.loss:.3f}, accuracy {progress.accuracy:.3f}", refresh=False)
                bar.update()
                # Not after an epoch's last batch: what a checkpoint there lacks is the epoch's validation.
                if progress.step % steps and time.monotonic() - saved > CHECKPOINT_SECONDS:
                    run.save(progress, model, optimizer)
                    saved = time.monotonic()
            val = validate(setting, model)
            progress.close_epoch(val, model, seconds=time.monotonic() - started)
            run.save(progress, model, optimizer)
            _say(f"epoch {epoch + 1}/{recipe.epochs}: {progress.last_line()}")

    model.load_state_dict(progress.best)
    draw_curves(progress.history, setting.probe_val.balanced, config.out / "curves.png")
    bundle = export(setting, model, progress)
    run.finish(bundle)
    _say(f"bundle: {bundle}")
    return bundle


def train_step(
    setting: Setting, model: AdaptedClassifier, optimizer: torch.optim.Optimizer, batch: Tensor, step: int
) -> tuple[float, int]:
    """One optimiser step on the images with these (B) indices; returns mean loss and number of right answers.

    Raises:
        SetupError: The loss is not finite; nothing was changed.
    """
    config = setting.config
    rng = torch.Generator().manual_seed(config.seed * 1_000_003 + step)
    pixels = shift_and_flip(setting.train.pixels(batch), shift=config.shift, flip=setting.flip, rng=rng)
    labels = setting.train.labels[batch].to(setting.device)
    inputs = setting.backbone.normalise(pixels)
    model.train()
    kept = draw_kept(setting.backbone, len(batch), config.keep, rng)
    logits = model(setting.backbone, inputs, kept, bf16=config.bf16)
    loss = F.cross_entropy(logits, labels)
    if not math.isfinite(loss.item()):
        raise SetupError(
            f"the loss is {loss.item()} at step {step + 1}; the last checkpoint is kept",
            hint="lower the rates, e.g. --library-rate, and give another --out",
        )
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item(), int((logits.argmax(1) == labels).sum())


def rate_factor(step: int, total: int, warmup: float) -> float:
    """Share of the peak rate at a step counted from 0: a linear rise over `warmup` of all steps, then a cosine."""
    rise = round(warmup * total)
    if step < rise:
        return (step + 1) / rise
    return 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, total - rise)))


def validate(setting: Setting, model: AdaptedClassifier) -> Scores:
    """The model as it will be exported, in float32, on the validation images."""
    logits = logits_of(setting.backbone, model.adapter, model.head.plain(), setting.val)
    return score(logits, setting.val.labels, setting.dataset.class_sources)


def _say(line: str) -> None:
    tqdm.write(line, file=sys.stderr)
