"""The training loop: config in, bundle out; reads from top to bottom.

The frozen backbone is run, never trained: images' tokens are made without gradients, and the gradient passes through
the tower into prompts, generator and library. Validation chooses the epoch; the test split is touched once, by
`export`, after the last step.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from lightning_fabric import Fabric
from torch import Tensor, nn

from pgn.backbone_spec import read_spec
from pgn.errors import DataInvalid, SetupError
from training.batchnorm import RunningStatistics
from training.config import TrainConfig, open_images
from training.curves import draw_curves
from training.data.augment import augment, sample_rngs
from training.data.batches import epoch_batches
from training.engine import compile_blocks, launch
from training.export import export
from training.heads import start_head
from training.memory import clear_memory_errors, clear_step_memory_errors
from training.methods import METHODS
from training.model import AdaptedClassifier, starts_of
from training.patches import draw_kept
from training.result import outcome, read_result
from training.run import RunFolder
from training.schedule import rate_factor
from training.scores import Scores, logits_of, score
from training.setting import Setting, prepare, require_starts
from training.watch import Watch, in_words, say

CHECKPOINT_SECONDS = 30.0  # at least so often, and after every epoch


def train(config: TrainConfig, *, tensorboard: bool = False, metrics_port: int | None = None) -> Path:
    """Train, and return the path of the bundle, or of result.json for a method that is not served.

    A run that has to come first (`Method.first`) is done first, in a folder of its own below `config.out`. Beside the
    bundle in `config.out` stand config.json, log.jsonl (one line an epoch), curves.png and result.json. Run again
    after an interruption, it goes on from the last checkpoint and ends with the same result as if it had never
    stopped; run again after its end, it returns at once. Under `torchrun` every process calls it and gets the path.

    Args:
        config: Everything that decides the result.
        tensorboard: Write TensorBoard's files into `config.out`/tensorboard.
        metrics_port: Port on which Prometheus may ask how it is going; 0 takes a free one.

    Raises:
        UsageError: `config.out` belongs to a run with another config, or its images have changed since; the processes
            do not fit the config.
        DataInvalid: The images cannot be trained on.
        SetupError: The loss or a weight is no longer a number; the disk is full (DiskFull) or memory is (OutOfMemory).
            The last checkpoint is kept, and the same command goes on from it.
        ArtefactError: The backbone or the checkpoint does not verify.
    """
    with clear_memory_errors(hint="free some and run the same command again: it goes on from its last checkpoint"):
        fabric = launch(config)
        shown = fabric.is_global_zero
        dataset = open_images(config)
        result = read_result(config.out)
        if not result:
            read_spec(config.backbone)  # a mistyped one is told before there is a folder
            require_starts(config)
        run = RunFolder(config, dataset, writes=shown)  # one of another config is told before anything is done
        if result:
            say(f"{config.out} holds a finished run: {in_words(result)}", shown=shown)
            return outcome(config.out, result)
        with (
            clear_memory_errors(" for images and linear probe", hint="take fewer images: --limit or --fraction"),
            fabric.rank_zero_first(local=True),  # the other processes find the plain features made
        ):
            setting = prepare(config, fabric.device, dataset)
        part = f", of {setting.probe.images:,} training images" if setting.probe.images < len(setting.train) else ""
        say(f"linear probe: val {setting.probe_val.balanced:.4f} (C {setting.probe.strength:g}{part})", shown=shown)
        first = METHODS[config.method].first(setting)
        if first:
            run_first = RunFolder(first, dataset, writes=shown)  # also a finished one has to be of this config
            if not read_result(first.out):
                say(f"first {first.method} alone, {first.recipe.epochs} epochs: {first.out}", shown=shown)
                with told_if_interrupted(run_first, shown=shown):
                    _train(replace(setting, config=first), run_first, fabric, tensorboard, metrics_port)
        with told_if_interrupted(run, shown=shown):
            return _train(setting, run, fabric, tensorboard, metrics_port)


def _train(setting: Setting, run: RunFolder, fabric: Fabric, tensorboard: bool, metrics_port: int | None) -> Path:
    config, recipe, first = setting.config, setting.config.recipe, fabric.is_global_zero
    if config.compile:
        compile_blocks(setting.backbone)
    torch.manual_seed(config.seed)
    model = AdaptedClassifier(METHODS[config.method].start(setting), start_head(setting)).to(fabric.device)
    optimizer = make_optimizer(model, config)
    peaks = [group["lr"] for group in optimizer.param_groups]
    seen = {"backbone": setting.backbone.digest, "train": setting.train.digest, "val": setting.val.digest}
    progress = run.resume(model, optimizer, seen)
    if progress.step:
        say(f"goes on from step {progress.step}, epoch {len(progress.history) + 1}", shown=first)
    for line in starts_of(model, setting):
        say(line, shown=first and not progress.step)

    size = setting.backbone.spec.preprocess.size
    if "input_size" in METHODS[config.method].options and config.input_size > size:
        say(f"the encoder sees {size} px, not {config.input_size}: the backbone's images have no more", shown=first)

    sets = setting.groups()
    step_size = recipe.batch_size * config.accumulate
    steps = len(epoch_batches(sets, step_size, seed=config.seed, epoch=0, parts=config.accumulate))
    if not steps:
        raise DataInvalid(
            f"{len(setting.train)} training images do not give each of {config.accumulate} micro-batches two",
            hint="add images, or take a smaller --accumulate",
        )
    run.claim()  # not before all that is asked for is known to work: the mended command finds it free
    learns = any(group["params"] for group in optimizer.param_groups)  # zero-shot does not
    planned = recipe.epochs if learns else 0
    learner = fabric.setup_module(model) if learns else model
    saved = time.monotonic()
    board = config.out / "tensorboard" if tensorboard else None
    with Watch(steps * planned, progress, shown=first, tensorboard=board, metrics_port=metrics_port) as watch:
        while len(progress.history) < planned and not progress.is_stale(config.patience):
            epoch = len(progress.history)
            batches = epoch_batches(sets, step_size, seed=config.seed, epoch=epoch, parts=config.accumulate)
            for number in range(progress.step - epoch * steps, steps):
                draws, started = batches[number], time.monotonic()
                for wanted in batches[number : number + 2]:  # the next step's images are decoded during this one
                    for _, share in own_shares(fabric, config, wanted):
                        setting.frames.prefetch(share[:, 0])
                factor = rate_factor(config, progress.step, steps)
                for group, peak in zip(optimizer.param_groups, peaks, strict=True):
                    group["lr"] = peak * factor
                try:
                    with clear_step_memory_errors(config):
                        loss_sum, hits = find_gradients(fabric, setting, learner, draws, epoch, progress.step)
                except BaseException:  # nothing has moved yet, so this very step can be done again
                    run.save(progress, model, optimizer, seen)
                    raise
                if config.clip_norm is not None:
                    nn.utils.clip_grad_norm_(model.parameters(), config.clip_norm)
                optimizer.step()
                optimizer.zero_grad()
                if not model.is_finite():  # before any checkpoint could hold it
                    raise overflow(config, "the weights are no longer numbers after", progress.step, epoch)
                progress.add_step(loss_sum, hits, len(draws), time.monotonic() - started)
                watch.step(progress, [group["lr"] for group in optimizer.param_groups])
                if progress.step % steps and time.monotonic() - saved > CHECKPOINT_SECONDS:
                    run.save(progress, model, optimizer, seen)
                    saved = time.monotonic()
            started = time.monotonic()
            try:
                val = fabric.broadcast(validate(setting, model) if first else None)
            except BaseException:  # the epoch's steps are done, and are not done again
                run.save(progress, model, optimizer, seen)
                raise
            assert val is not None
            if not math.isfinite(val.loss):
                raise overflow(config, f"the loss on validation is {val.loss} after", progress.step - 1, epoch)
            progress.close_epoch(val, model, seconds=time.monotonic() - started)
            run.save(progress, model, optimizer, seen)
            watch.epoch(progress, planned)

    if first:
        if progress.history:
            model.load_state_dict(progress.best)
            draw_curves(progress.history, setting.probe_val.balanced, config.out / "curves.png")
        run.finish(export(setting, model, progress))
    fabric.barrier()
    written = read_result(config.out)
    assert written is not None
    say(f"{config.out}: {in_words(written)}", shown=first)
    return outcome(config.out, written)


@contextmanager
def told_if_interrupted(run: RunFolder, *, shown: bool) -> Iterator[None]:
    """Whoever presses Ctrl-C is told what is kept."""
    try:
        yield
    except KeyboardInterrupt:
        kept = (
            "starts again: nothing was saved yet" if run.saved_step is None else f"goes on from step {run.saved_step}"
        )
        say(f"interrupted; the same command {kept}", shown=shown)
        raise


def make_optimizer(model: AdaptedClassifier, config: TrainConfig) -> torch.optim.Optimizer:
    """The config's optimiser over the method's groups and the head, which is an empty group if it stays fixed."""
    learned = [parameter for parameter in model.head.parameters() if parameter.requires_grad]
    head = {"params": learned, "lr": config.recipe.head_rate, "weight_decay": config.weight_decay}
    groups = [*METHODS[config.method].groups(model.adapter, config), head]
    return torch.optim.SGD(groups, momentum=0.9) if config.optimizer == "sgd" else torch.optim.AdamW(groups)


def own_shares(fabric: Fabric, config: TrainConfig, draws: Tensor) -> list[tuple[int, Tensor]]:
    """The micro-batches of a step that this process computes, each with its number in the step."""
    return list(enumerate(draws.tensor_split(config.accumulate)))[fabric.global_rank :: fabric.world_size]


def find_gradients(
    fabric: Fabric, setting: Setting, model: nn.Module, draws: Tensor, epoch: int, step: int
) -> tuple[float, int]:
    """Gradients of the mean loss over the (B, 2) draws of a step; this process computes its share of micro-batches.

    Returns:
        The sum of the losses over all B images and the number of right answers, of all processes together.

    Raises:
        SetupError: The loss is not finite.
    """
    config, shares = setting.config, own_shares(fabric, setting.config, draws)
    sums = torch.zeros(2, dtype=torch.float64, device=fabric.device)
    model.train()
    statistics = RunningStatistics(model)
    with statistics.one_step(fabric):
        for number, share in shares:
            rngs = sample_rngs(share, seed=config.seed, epoch=epoch)
            torch.manual_seed(config.seed * 1_000_003 + step * config.accumulate + number)  # a method's dropout
            frames = setting.frames.take(share[:, 0])
            turned = {"flip": setting.flip, "upside_down": setting.upside_down}
            pixels = augment(config.augment, frames, rngs, shift=config.shift, **turned)
            labels = setting.train.labels[share[:, 0]].to(fabric.device)
            kept = draw_kept(setting.backbone, config.keep, rngs)
            # Fabric's wrapper of a module, which it asks for here, has no public name.
            with fabric.no_backward_sync(model, enabled=number != shares[-1][0]):  # type: ignore[arg-type]
                logits = model(setting.backbone, setting.backbone.normalise(pixels), kept)
                loss = F.cross_entropy(logits, labels, reduction="sum")
                fabric.backward(loss * fabric.world_size / len(draws))  # processes' gradients are averaged
            sums += torch.stack([loss.detach(), (logits.argmax(1) == labels).sum()])
            statistics.note()
        reduced = fabric.all_reduce(sums, reduce_op="sum")
        assert isinstance(reduced, Tensor)  # as what was given
        loss_sum, hits = reduced.tolist()
        if not math.isfinite(loss_sum):
            raise overflow(config, f"the loss is {loss_sum} at", step, epoch)
    return loss_sum, int(hits)


def overflow(config: TrainConfig, what: str, step: int, epoch: int) -> SetupError:
    """The error of a run that has diverged in that step of that epoch, both counted from 0."""
    goes_on = f" and --start-from {config.out}, to go on from its best epoch" if epoch else ""
    return SetupError(
        f"{what} step {step + 1}",
        hint="the same command tries again from its last checkpoint; if it ends there too, lower the rates, e.g. "
        f"--library-rate, and give another --out{goes_on if METHODS[config.method].served else ''}",
    )


def validate(setting: Setting, model: AdaptedClassifier) -> Scores:
    """The model as it will be exported, in float32, on the validation images."""
    logits = logits_of(setting.backbone, model.adapter, model.head.plain(), setting.val)
    return score(logits, setting.val.labels, setting.dataset.class_sources)
