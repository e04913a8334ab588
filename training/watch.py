"""What can be seen of a running training: the bar with its time left, a line an epoch, TensorBoard, Prometheus."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm
from typing_extensions import Self

from pgn.errors import SetupError
from training.metrics import TrainingMetrics
from training.result import RunResult
from training.run import Progress
from training.scores import top1

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class Watch:
    """Shows a run while the `with` block lasts; the first of several processes shows it for all of them.

    Args:
        total: Steps of the run.
        progress: Where it stands.
        shown: Whether this process shows anything.
        tensorboard: Folder for TensorBoard's files, or None.
        metrics_port: Where Prometheus may ask, or None.

    Raises:
        SetupError: TensorBoard is wanted and not installed.
        PortTaken: Another program listens on the port.
    """

    def __init__(
        self, total: int, progress: Progress, *, shown: bool, tensorboard: Path | None, metrics_port: int | None
    ) -> None:
        self._shown = shown
        self._board = self._metrics = None
        with ExitStack() as until:
            if shown and tensorboard is not None:
                self._board = _open_board(tensorboard, progress)
                until.callback(self._board.close)
            if shown and metrics_port is not None:
                self._metrics = until.enter_context(TrainingMetrics(metrics_port, total))
                port = self._metrics.port
                say(f"metrics: http://127.0.0.1:{port}/metrics (and at every other address of this machine)")
            hidden = not (shown and sys.stderr.isatty())
            self._bar = until.enter_context(
                tqdm(total=total, initial=progress.step, unit="step", disable=hidden, leave=False)
            )
            self._until = until.pop_all()

    def step(self, progress: Progress, rates: list[float]) -> None:
        """After an optimiser step."""
        self._bar.set_postfix_str(f"loss {progress.loss:.3f}, accuracy {progress.accuracy:.3f}", refresh=False)
        self._bar.update()
        if self._metrics:
            self._metrics.step(progress, rates)

    def epoch(self, progress: Progress, planned: int) -> None:
        """After an epoch's validation."""
        record = progress.history[-1]
        say(f"epoch {record['epoch']}/{planned}: {progress.last_line()}", shown=self._shown)
        if self._metrics:
            self._metrics.epoch(progress)
        if self._board:
            for name, key in (("loss/train", "train_loss"), ("loss/val", "val_loss"), ("top1/train", "train_top1")):
                self._board.add_scalar(name, record[key], record["epoch"])
            self._board.add_scalar("top1/val", record["val_balanced"], record["epoch"])  # what chooses the epoch
            self._board.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._until.close()


def in_words(result: RunResult) -> str:
    """What a run found as one line for people, in %; of a union, means over its sets."""
    chosen = f"epoch {result.best_epoch} of {result.epochs} chosen by validation; " if result.epochs else ""
    scores = (
        f"{split} {100 * top1(ours):.1f} % (linear probe {100 * top1(probe):.1f} %)"
        for split, ours, probe in (
            ("validation", result.val, result.linear_probe["val"]),
            ("test", result.test, result.linear_probe["test"]),
        )
    )
    return f"{chosen}{', '.join(scores)}"


def say(line: str, *, shown: bool = True) -> None:
    """One line on standard error, above a bar if there is one."""
    if shown:
        tqdm.write(line, file=sys.stderr)


def _open_board(folder: Path, progress: Progress) -> SummaryWriter:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise SetupError("TensorBoard is not installed", hint="pip install 'pgn-serve[tensorboard]'") from error
    return SummaryWriter(str(folder), purge_step=len(progress.history) + 1)  # a resumed run repeats nothing
