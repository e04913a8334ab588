"""What `pgn compare` does: read the grid, check and run the cells that are asked for, write the tables."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from pgn.errors import SetupError, UsageError
from training.compare.check import refuse_faults
from training.compare.gather import TABLE_FILE, write_summary
from training.compare.grid import Cell, Grid, find_grid, read_grid, shared_out
from training.compare.runner import error_of, result_of, run_cells
from training.scores import top1


def compare(
    grid: str,
    out: Path | None,
    data_dir: Path,
    *,
    minutes: float | None = None,
    only: str | None = None,
    index: int | None = None,
    run: bool = True,
) -> Path:
    """Run the cells of the grid that are not finished, then write its tables; returns the path of the Markdown.

    Args:
        grid: A TOML file, or the name of a shipped grid.
        out: Folder of cells and tables; None for runs/<name of the grid>.
        data_dir: Stands for `{data}` in specs, and is where named sets lie.
        minutes: Stop after so long.
        only: `N/M`: run the N-th of M parts of the cells.
        index: Run this cell alone, counted from 0 in the order of `list_cells`.
        run: False writes the tables of what is finished, and runs nothing.

    Raises:
        UsageError: The grid makes no sense; no such part or cell; cells cannot be run, or finished ones had other
            options.
        SetupError: Cells failed, so whoever started them can try again; the tables are written all the same.
        DiskFull: There is no room.
    """
    file, folder = _places(grid, out)
    opened = read_grid(file)
    cells = _chosen(opened.cells(), only, index) if run else ()
    if run:
        if index is None:  # a cell alone, of a cluster's Job, is no reason to stop the others
            refuse_faults([cell for cell in cells if result_of(folder, cell) is None], folder, data_dir)
        run_cells(cells, folder, data_dir, minutes=minutes)
    write_summary(opened, folder, command=_command(grid, opened))
    failed = [cell for cell in cells if error_of(folder, cell)]
    if failed and index is not None:
        raise SetupError(f"cell {index}, {failed[0].name}, failed: {error_of(folder, failed[0])}")
    if failed:
        words = shlex.join(["pgn", "compare", grid, *(["--out", str(out)] if out else []), "--list"])
        raise SetupError(f"{len(failed)} of {len(cells)} cells failed", hint=f"`{words}` says why")
    return folder / TABLE_FILE


def _command(grid: str, opened: Grid) -> str:
    """What makes the tables; where the images lie differs from machine to machine."""
    placed = any("{data}" in spec for cell in opened.cells() for spec in cell.dataset)
    return f"pgn compare {grid}" + (" --data-dir IMAGES" if placed else "")


def _places(grid: str, out: Path | None) -> tuple[Path, Path]:
    file = find_grid(grid)
    return file, out or Path("runs") / file.stem


def _chosen(cells: Sequence[Cell], only: str | None, index: int | None) -> Sequence[Cell]:
    if index is None:
        return shared_out(cells, only) if only else cells
    if index >= len(cells):
        raise UsageError(f"there is no cell {index}", hint=f"the grid has {len(cells)}, counted from 0")
    return [cells[index]]


def list_cells(grid: str, out: Path | None) -> str:
    """One line a cell: its number, name and state."""
    file, folder = _places(grid, out)
    lines = []
    for number, cell in enumerate(read_grid(file).cells()):
        if result := result_of(folder, cell):
            state = f"finished, test {100 * top1(result.test):.2f} %"
        elif error := error_of(folder, cell):
            state = f"failed: {error}"
        else:
            state = "waiting"
        lines.append(f"{number}  {cell.name}  {state}")
    return "\n".join(lines)
