"""What is finished of a grid, written beside its cells: table, CSV files and plot."""

from __future__ import annotations

from pathlib import Path

from pgn.bundle import write_atomically
from training.compare.grid import Grid
from training.compare.plots import draw
from training.compare.runner import MACHINE_FILE, folder_of
from training.compare.summary import Summary, summarise
from training.compare.tables import cells_csv, groups_csv, markdown
from training.disk import clear_disk_errors

TABLE_FILE, CELLS_FILE, GROUPS_FILE, PLOT_FILE = "table.md", "cells.csv", "groups.csv", "plot.png"


def write_summary(grid: Grid, out: Path, *, command: str) -> Summary:
    """Write table.md, cells.csv, groups.csv and plot.png of what is finished under `out`.

    Raises:
        UsageError: A finished cell was run with other options than the grid has now.
    """
    summary = summarise(grid, out)
    with clear_disk_errors(out):
        out.mkdir(parents=True, exist_ok=True)
        pictures = [PLOT_FILE] if draw(summary, out / PLOT_FILE) else []
        text = markdown(summary, command=command, machines=_machines(summary, out), pictures=pictures)
        write_atomically(out / TABLE_FILE, text.encode())
        write_atomically(out / CELLS_FILE, cells_csv(summary).encode())
        write_atomically(out / GROUPS_FILE, groups_csv(summary).encode())
    return summary


def _machines(summary: Summary, out: Path) -> list[str]:
    """The machines that finished cells were run on, each once."""
    files = [folder_of(out, outcome.cell) / MACHINE_FILE for outcome in summary.outcomes if outcome.result]
    return list(dict.fromkeys(file.read_text().strip() for file in files if file.exists()))
