"""The folder of a run: config, list of images, checkpoint, log and curves; bundle or weights; result.json as its end.

Everything is written beside and renamed, so a run killed at any moment goes on from its last checkpoint. All chance
in the loop is drawn from seed, step and draw, so the step alone is the state of the random numbers and of the sampler.
"""

from __future__ import annotations

import io
import json
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor, nn

from pgn.bundle import Bundle, write_atomically
from pgn.errors import ArtefactError, PgnError, UsageError
from training.config import TrainConfig, option_defaults
from training.data.dataset import Dataset
from training.disk import clear_disk_errors
from training.image_list import ImageList
from training.result import RESULT_FILE, RunResult
from training.scores import Scores

CONFIG_FILE, IMAGES_FILE, CHECKPOINT_FILE, LOG_FILE = "config.json", "images.json", "checkpoint.pt", "log.jsonl"
_PLACES = {"cache", "data_dir"}  # may be others when a run goes on


@dataclass
class Progress:
    """How far a run is.

    Attributes:
        step: Steps done; with the seed it decides all that is random.
        loss_sum: Over the images of the epoch at hand.
        hits: Right answers among them.
        seen: Their number.
        seconds: Spent on them, over all starts of the run.
        history: One record for each finished epoch.
        best_epoch: Number of the epoch, from 1, with the best validation; 0 before there is one.
        best: The model's state after that epoch.
    """

    step: int = 0
    loss_sum: float = 0.0
    hits: int = 0
    seen: int = 0
    seconds: float = 0.0
    history: list[dict[str, Any]] = field(default_factory=list)
    best_epoch: int = 0
    best: dict[str, Tensor] = field(default_factory=dict)

    def add_step(self, loss_sum: float, hits: int, seen: int, seconds: float) -> None:
        """Count one training step."""
        self.step += 1
        self.loss_sum += loss_sum
        self.hits += hits
        self.seen += seen
        self.seconds += seconds

    @property
    def loss(self) -> float:
        """Mean training loss of the epoch at hand."""
        return self.loss_sum / max(1, self.seen)

    @property
    def accuracy(self) -> float:
        """Share of right answers of the epoch at hand."""
        return self.hits / max(1, self.seen)

    @property
    def images_per_second(self) -> float:
        """Of the epoch at hand."""
        return self.seen / self.seconds if self.seconds else 0.0

    def is_stale(self, patience: int | None) -> bool:
        """Whether that many epochs have gone by without a better validation."""
        return patience is not None and len(self.history) - self.best_epoch >= patience

    def close_epoch(self, val: Scores, model: nn.Module, *, seconds: float) -> None:
        """File the epoch's record; keep the model if its validation is the best so far (ties: lower loss).

        `seconds` are those of the validation, on top of the steps'.
        """
        record = {
            "epoch": len(self.history) + 1,
            "step": self.step,
            "train_loss": self.loss,
            "train_top1": self.accuracy,
            "val_loss": val.loss,
            "val_top1": val.top1,
            "val_balanced": val.balanced,
            "seconds": round(self.seconds + seconds, 1),
        }
        self.history.append(record)
        self.loss_sum, self.hits, self.seen, self.seconds = 0.0, 0, 0, 0.0
        if max(self.history, key=lambda r: (r["val_balanced"], -r["val_loss"])) is record:
            self.best_epoch = len(self.history)
            self.best = {name: tensor.clone() for name, tensor in model.state_dict().items()}

    def last_line(self) -> str:
        """The last epoch in words."""
        record = self.history[-1]
        return (
            f"train loss {record['train_loss']:.4f}, accuracy {record['train_top1']:.4f}; "
            f"val loss {record['val_loss']:.4f}, accuracy {record['val_balanced']:.4f}; {record['seconds']:.0f} s"
        )


class RunFolder:
    """A folder for one config and its images; of several processes the first one writes, and all of them read.

    Args:
        config: Of the run.
        dataset: What the config opens today.
        writes: Whether this process is the first one.

    Attributes:
        path: The folder.
        saved_step: Steps that the last checkpoint holds; None before there is one.

    Raises:
        UsageError: The folder belongs to another config, or its images have changed; the message names what differs.
        ArtefactError: What the folder says of them cannot be read.
        DiskFull: There is no room.
    """

    def __init__(self, config: TrainConfig, dataset: Dataset, *, writes: bool = True) -> None:
        self.path = config.out
        self.saved_step: int | None = None
        self._writes = writes
        if not writes:
            return
        self._config = config.model_dump(mode="json", exclude={"out"})
        self._images = ImageList.of(dataset)
        if (self.path / CONFIG_FILE).exists():
            _refuse_other_config(self.path, _read_config(self.path / CONFIG_FILE), self._config)
            _refuse_other_images(self.path, self._images)
        with clear_disk_errors(self.path):
            self.path.mkdir(parents=True, exist_ok=True)

    def claim(self) -> None:
        """From here on the folder is this config's and these images'."""
        if not self._writes or (self.path / CONFIG_FILE).exists():
            return
        with clear_disk_errors(self.path):
            write_atomically(self.path / IMAGES_FILE, as_json(self._images.model_dump()))
            write_atomically(self.path / CONFIG_FILE, as_json(self._config))

    def finish(self, result: RunResult) -> None:
        """Mark the run as ended; its checkpoint is no longer needed."""
        with clear_disk_errors(self.path):
            write_atomically(self.path / RESULT_FILE, as_json(result.model_dump()))
        (self.path / CHECKPOINT_FILE).unlink(missing_ok=True)

    def save(
        self, progress: Progress, model: nn.Module, optimizer: torch.optim.Optimizer, seen: dict[str, str]
    ) -> None:
        """Write the checkpoint and the log; `seen` are digests of what the run reads: backbone and pixels."""
        if not self._writes:
            return
        buffer = io.BytesIO()
        state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
        torch.save({"progress": vars(progress), **state, "seen": seen}, buffer)
        log = "".join(json.dumps(record) + "\n" for record in progress.history)
        with clear_disk_errors(self.path):
            write_atomically(self.path / CHECKPOINT_FILE, buffer.getvalue())
            write_atomically(self.path / LOG_FILE, log.encode())
        self.saved_step = progress.step

    def resume(self, model: nn.Module, optimizer: torch.optim.Optimizer, seen: dict[str, str]) -> Progress:
        """Load the checkpoint into model and optimiser, or start anew if there is none.

        Raises:
            UsageError: The checkpoint was written with another backbone, or other images could be read.
            ArtefactError: It is damaged.
        """
        file = self.path / CHECKPOINT_FILE
        if not file.exists():
            return Progress()
        with _clear_damage(file):
            state = torch.load(file, map_location="cpu", weights_only=True)
            _refuse_other_reads(self.path, state.get("seen", seen), seen)
            model.load_state_dict(state["model"])
            optimizer.load_state_dict(state["optimizer"])
            progress = Progress(**state["progress"])
        self.saved_step = progress.step
        return progress


@dataclass(frozen=True)
class BestSoFar:
    """The best epoch of a run that has not ended.

    Attributes:
        config: Of the run.
        classes: Its class names.
        backbone: Digest of the backbone it is on.
        model: State of adapter and head; empty before the first epoch has ended.
    """

    config: TrainConfig
    classes: tuple[str, ...]
    backbone: str
    model: dict[str, Tensor]


def best_so_far(folder: Path) -> BestSoFar | None:
    """The best epoch of the run in `folder`, or None if there is no run that has begun and not ended.

    Raises:
        ArtefactError: Its files are damaged, or of another version of this project.
    """
    file = folder / CHECKPOINT_FILE
    if not file.exists():
        return None
    images = images_of_run(folder)
    with _clear_damage(file):
        if images is None:
            raise KeyError(f"{IMAGES_FILE} is missing")
        state = torch.load(file, map_location="cpu", weights_only=True)
        backbone, best = state["seen"]["backbone"], state["progress"]["best"]
        return BestSoFar(config_of_run(folder), images.classes, backbone, best)


@contextmanager
def _clear_damage(file: Path) -> Iterator[None]:
    """What a damaged checkpoint, or one of another version, makes fail becomes one clear line."""
    try:
        yield
    except (RuntimeError, pickle.UnpicklingError, EOFError, KeyError, TypeError, ValueError) as error:
        raise ArtefactError(
            f"{file} cannot be resumed from: {str(error).splitlines()[0]}", hint="delete it to start again"
        ) from error


def config_of_run(folder: Path) -> TrainConfig:
    """The config of the run in `folder`.

    Raises:
        ArtefactError: There is none, or it is of another version of this project.
    """
    file = folder / CONFIG_FILE
    try:
        return TrainConfig.model_validate({**_read_config(file), "out": folder})
    except ValidationError as error:
        raise _no_config(file, error) from error


def config_of_bundle(bundle: Bundle) -> TrainConfig:
    """The config of the run that made `bundle`.

    Raises:
        UsageError: It does not say, or says it in another version's words.
    """
    try:
        return TrainConfig.model_validate(bundle.manifest.training["config"])
    except (KeyError, ValidationError, PgnError) as error:
        raise UsageError(
            f"bundle {bundle.version} does not say how it was trained", hint="give one made by `pgn train`"
        ) from error


def _read_config(file: Path) -> dict[str, Any]:
    try:
        data = json.loads(file.read_text())
        return data | {"recipe": dict(data["recipe"])}
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise _no_config(file, error) from error


def _no_config(file: Path, error: Exception) -> ArtefactError:
    fault = str(error).splitlines()[0]
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        fault = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    return ArtefactError(f"{file} is no config of a run: {fault}", hint="give another folder")


def _refuse_other_config(path: Path, there: dict[str, Any], here: dict[str, Any]) -> None:
    # What a run of an earlier version does not know was then as it is by default today. Which images they are is told
    # by images.json, wherever they lie.
    defaults = json.loads(json.dumps(option_defaults(), default=str))
    flat_there, flat_here = ({**c, **c.get("recipe", {}), "recipe": None} for c in (defaults | there, here))
    differing = [name for name in flat_here if name not in _PLACES and flat_there.get(name) != flat_here[name]]
    if differing:
        faults = ", ".join(f"{name} {flat_there.get(name)!r} there, {flat_here[name]!r} here" for name in differing)
        raise UsageError(f"{path} holds a run with another config: {faults}", hint="give another --out, or delete it")


def _refuse_other_images(path: Path, here: ImageList) -> None:
    there = images_of_run(path)
    if there and (changes := there.changes(here)):
        raise UsageError(
            f"the images of {path} have changed since it was begun: {', '.join(changes)}",
            hint="give another --out, or delete it",
        )


def images_of_run(folder: Path) -> ImageList | None:
    """The images of the run in `folder`; None if it was begun before runs wrote them down.

    Raises:
        ArtefactError: The list is damaged.
    """
    file = folder / IMAGES_FILE
    if not file.exists():
        return None
    try:
        return ImageList.model_validate_json(file.read_bytes())
    except (OSError, ValidationError) as error:
        raise ArtefactError(f"{file} is no list of a run's images", hint="give another --out") from error


def _refuse_other_reads(path: Path, there: dict[str, str], here: dict[str, str]) -> None:
    words = {"backbone": "the backbone is another", "train": "other training images", "val": "other validation images"}
    if changes := [words[name] for name in here if there[name] != here[name]]:
        raise UsageError(
            f"since the last checkpoint of {path} what it reads has changed: {', '.join(changes)}",
            hint="bring it back, or give another --out",
        )


def as_json(data: dict[str, Any]) -> bytes:
    """`data` as the bytes of a JSON file for people to read."""
    return (json.dumps(data, indent=2) + "\n").encode()
