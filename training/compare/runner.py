"""Run the cells of a grid one after another: each in a folder of its own, which says whether it is done.

There is no other state. A finished cell is never run again; one that was stopped goes on from its checkpoint; one
that failed leaves its reason and is tried again next time, and the others go on.
"""

from __future__ import annotations

import logging
import os
import platform
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import mean
from types import FrameType
from typing import Any

import torch

from pgn.bundle import write_atomically
from pgn.errors import ArtefactError, DiskFull, PgnError, UsageError, one_line
from training.compare.grid import Cell
from training.config import TrainConfig, option_defaults, plan, usual_encoder_rate
from training.disk import clear_disk_errors
from training.loop import train
from training.result import RunResult, read_result
from training.run import config_of_run
from training.scores import top1
from training.watch import say

ERROR_FILE, MACHINE_FILE = "error.txt", "machine.txt"
CELLS = "cells"
_LEFT_OPEN = {"recipe", "epochs", "head", "accumulate", "out", "data_dir", "cache", "name"}  # `plan` fills them in

_log = logging.getLogger(__name__)


class TimeUp(BaseException):
    """The time budget is used up. No failure of the cell that it meets, so not an Exception."""


def run_cells(cells: Sequence[Cell], out: Path, data_dir: Path, *, minutes: float | None = None) -> None:
    """Run those that are not finished, in order.

    Args:
        cells: Which.
        out: Folder of the grid; the cell's is `out`/cells/<its name>.
        data_dir: Stands for `{data}` in specs, and is where named sets lie.
        minutes: Stop after so long. The cell at hand is cut off and goes on from its last checkpoint next time.

    Raises:
        DiskFull: There is no room, so the other cells would fail too.
    """
    waiting = [cell for cell in cells if result_of(out, cell) is None]
    say(f"{len(cells)} cells, {len(cells) - len(waiting)} of them finished")
    with time_limit(minutes):
        try:
            for number, cell in enumerate(waiting, start=1):
                say(f"cell {number}/{len(waiting)}: {cell}; {_time_left(cells, waiting[number - 1 :], out)}")
                run_cell(cell, out, data_dir)
        except TimeUp:
            say(f"{minutes:g} minutes are up; the same command goes on where this one stopped")


def run_cell(cell: Cell, out: Path, data_dir: Path) -> None:
    """Train one cell; what stops it is one line in its error.txt, and in the log with a traceback if unforeseen."""
    folder = folder_of(out, cell)
    with clear_disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ERROR_FILE).unlink(missing_ok=True)
        write_atomically(folder / MACHINE_FILE, f"{machine()}\n".encode())
    try:
        train(plan(specs_of(cell, data_dir), folder, **options_of(cell), data_dir=data_dir))
    except DiskFull:
        raise
    except Exception as error:
        line = str(error) if isinstance(error, PgnError) else f"{type(error).__name__}: {one_line(error)}"
        if not isinstance(error, PgnError):
            _log.exception("%s failed in a way that nobody foresaw", cell)
        with clear_disk_errors(folder):
            write_atomically(folder / ERROR_FILE, f"{line}\n".encode())
        say(f"failed: {line}")
        return
    if result := result_of(out, cell):
        say(f"done: val {100 * top1(result.val):.2f} %, test {100 * top1(result.test):.2f} %, {result.seconds:.0f} s")


def specs_of(cell: Cell, data_dir: Path) -> list[str]:
    """Where the images of the cell lie on this machine."""
    return [spec.replace("{data}", str(data_dir)) for spec in cell.dataset]


def options_of(cell: Cell) -> dict[str, Any]:
    """What the grid says of the cell's run, but for its images."""
    fraction = {"fraction": cell.fraction} if cell.fraction != 1 else {}
    return {"method": cell.method, "seed": cell.seed, **cell.options, **fraction}


def folder_of(out: Path, cell: Cell) -> Path:
    """The folder of the cell's run."""
    return out / CELLS / cell.name


def result_of(out: Path, cell: Cell) -> RunResult | None:
    """The result of a finished cell; None before that.

    Raises:
        UsageError: The folder holds a run with other options than the grid has now.
        ArtefactError: Its result or its config cannot be read.
    """
    folder = folder_of(out, cell)
    try:
        if result := read_result(folder):
            _refuse_other_options(folder, cell, config_of_run(folder))
    except ArtefactError as error:
        raise ArtefactError(error.message, hint=f"delete {folder}, and the cell is run again") from error
    return result


def error_of(out: Path, cell: Cell) -> str | None:
    """The one line of a cell that failed; None if it has not, or has been started again."""
    file = folder_of(out, cell) / ERROR_FILE
    return file.read_text().partition("\n")[0] if file.exists() else None


def _refuse_other_options(folder: Path, cell: Cell, config: TrainConfig) -> None:
    """A finished cell is not run again, so its numbers must be those of the grid as it is now.

    What the grid leaves open has to be there as it is by default, but for what the number of images decides.
    """
    there = config.model_dump(exclude_unset=True)
    there |= there.pop("recipe")
    defaults = {name: value for name, value in option_defaults().items() if name not in _LEFT_OPEN}
    defaults["encoder_rate"] = usual_encoder_rate(cell.method, cell.options.get("encoder_first", 0))
    faults = []
    for name, wanted in {**defaults, "dataset": cell.dataset, **options_of(cell)}.items():
        found = there.get(name, defaults.get(name))  # a run of an earlier version lacks what came later
        if _place_free(found) != _place_free(wanted):
            faults.append(f"{name} {found!r} there, {wanted!r} in the grid")
    if faults:
        raise UsageError(
            f"{folder} was run with other options: {', '.join(faults)}", hint="delete it, or give another --out"
        )


def _place_free(value: Any) -> Any:
    """An option as config.json writes it, and of a path only its last part: a folder may lie elsewhere today."""
    if isinstance(value, list | tuple):
        return [_place_free(each) for each in value]
    if isinstance(value, str | Path):
        kind, colon, path = str(value).rpartition(":")
        return f"{kind}{colon}{Path(path).name}"
    return value


def machine() -> str:
    """The machine in one line: processor, cores or graphics card, torch."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line.partition(":")[2].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        model = names[0] if names else model
    cores = f"{torch.get_num_threads()} of {os.cpu_count()} cores"
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else cores
    return f"{model}, {device}, {platform.system()}, Python {platform.python_version()}, torch {torch.__version__}"


@contextmanager
def time_limit(minutes: float | None) -> Iterator[None]:
    """Raise TimeUp inside after so many minutes; without a number, never. For the main thread."""
    if minutes is None:
        yield
        return

    def raise_time_up(_signal: int, _frame: FrameType | None) -> None:
        raise TimeUp

    before = signal.signal(signal.SIGALRM, raise_time_up)
    signal.setitimer(signal.ITIMER_REAL, 60 * minutes)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _time_left(cells: Sequence[Cell], waiting: Sequence[Cell], out: Path) -> str:
    """How long the waiting cells may take: as long as finished ones of the same row, else as all finished ones."""
    taken: dict[str, list[float]] = {}
    for cell in cells:
        if result := result_of(out, cell):
            taken.setdefault(cell.row, []).append(result.seconds)
    if not taken:
        return "time left unknown before the first is done"
    usual = mean(seconds for row in taken.values() for seconds in row)
    left = sum(mean(taken[cell.row]) if cell.row in taken else usual for cell in waiting)
    return f"about {time.strftime('%H:%M', time.gmtime(left))} hours left" if left < 86_400 else "more than a day left"
