"""The folder of a run: config.json, checkpoint.pt, log.jsonl, curves.png, the bundle, and result.json as its end.

Everything is written beside and renamed, so a run killed at any moment goes on from its last checkpoint. All chance
in the loop is drawn from seed and step, so the step alone is the state of the random numbers and of the sampler.
"""

from __future__ import annotations

import errno
import io
import json
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pgn.bundle import write_atomically
from pgn.errors import ArtefactError, DiskFull, UsageError
from training.config import TrainConfig

CONFIG_FILE, CHECKPOINT_FILE, LOG_FILE, RESULT_FILE = "config.json", "checkpoint.pt", "log.jsonl", "result.json"


@dataclass
class Progress:
    """How far a run is.

    Attributes:
        step: Steps done; with the seed it decides all that is random.
        seconds: Time spent in training steps and validation so far.
        loss_sum: Over the images of the epoch at hand.
        hits: Right answers among them.
        seen: Their number.
        history: One record for each finished epoch.
        best_epoch: Number of the epoch, from 1, with the best validation; 0 before there is one.
        best: The model's state after that epoch.
    """

    step: int = 0
    seconds: float = 0.0
    loss_sum: float = 0.0
    hits: int = 0
    seen: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)
    best_epoch: int = 0
    best: dict[str, Tensor] = field(default_factory=dict)

    def add_batch(self, loss: float, hits: int, seen: int) -> None:
        """Count one training step."""
        self.step += 1
        self.loss_sum += loss * seen
        self.hits += hits
        self.seen += seen

    def close_epoch(self, record: dict[str, Any], model: nn.Module) -> None:
        """File the epoch's record; keep the model if its validation is the best so far (ties: lower loss)."""
        self.history.append(record)
        self.loss_sum, self.hits, self.seen = 0.0, 0, 0
        if max(self.history, key=lambda r: (r["val_balanced"], -r["val_loss"])) is record:
            self.best_epoch = len(self.history)
            self.best = {name: tensor.clone() for name, tensor in model.state_dict().items()}


class RunFolder:
    """Claims a folder for one config.

    Raises:
        UsageError: The folder belongs to another config; the message names what differs.
        DiskFull: There is no room.
    """

    def __init__(self, config: TrainConfig) -> None:
        self.path = config.out
        data = config.model_dump(mode="json", exclude={"out"})
        file = self.path / CONFIG_FILE
        if file.exists():
            _refuse_other_config(self.path, json.loads(file.read_text()), data)
            return
        with clear_disk_errors(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            write_atomically(file, _json(data))

    def finished(self) -> Path | None:
        """The bundle's path once the run has ended."""
        file = self.path / RESULT_FILE
        return self.path / json.loads(file.read_text())["bundle"] if file.exists() else None

    def finish(self, bundle: Path) -> None:
        """Mark the run as ended; its checkpoint is no longer needed."""
        with clear_disk_errors(self.path):
            write_atomically(self.path / RESULT_FILE, _json({"bundle": bundle.name}))
        (self.path / CHECKPOINT_FILE).unlink(missing_ok=True)

    def save(self, progress: Progress, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Write the checkpoint and the log."""
        buffer = io.BytesIO()
        state = {"progress": asdict(progress), "model": model.state_dict(), "optimizer": optimizer.state_dict()}
        torch.save(state, buffer)
        log = "".join(json.dumps(record) + "\n" for record in progress.history)
        with clear_disk_errors(self.path):
            write_atomically(self.path / CHECKPOINT_FILE, buffer.getvalue())
            write_atomically(self.path / LOG_FILE, log.encode())

    def resume(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> Progress:
        """Load the checkpoint into model and optimiser, or start anew if there is none."""
        file = self.path / CHECKPOINT_FILE
        if not file.exists():
            return Progress()
        try:
            state = torch.load(file, map_location="cpu", weights_only=True)
            model.load_state_dict(state["model"])
            optimizer.load_state_dict(state["optimizer"])
            return Progress(**state["progress"])
        except (RuntimeError, pickle.UnpicklingError, EOFError, KeyError, ValueError) as error:
            raise ArtefactError(
                f"{file} cannot be resumed from: {str(error).splitlines()[0]}", hint="delete it to start again"
            ) from error


@contextmanager
def clear_disk_errors(path: Path) -> Iterator[None]:
    """Turn a failed write into one clear line; the last complete files stay."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFull(f"no room left to write into {path}") from error
        raise UsageError(f"{path} cannot be written: {error.strerror}", hint="give another --out") from error


def _refuse_other_config(path: Path, there: dict[str, Any], here: dict[str, Any]) -> None:
    flat_there, flat_here = ({**c, **c.get("recipe", {}), "recipe": None} for c in (there, here))
    differing = [name for name in flat_here if flat_there.get(name) != flat_here[name]]
    if differing:
        faults = ", ".join(f"{name} {flat_there.get(name)!r} there, {flat_here[name]!r} here" for name in differing)
        raise UsageError(f"{path} holds a run with another config: {faults}", hint="give another --out, or delete it")


def _json(data: dict[str, Any]) -> bytes:
    return (json.dumps(data, indent=2) + "\n").encode()
