"""Whether cells can be run at all: what would fail every one of them is told before the first is started."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from pgn.backbone_spec import read_spec
from pgn.errors import DiskFull, PgnError, UsageError
from training.compare.grid import Cell
from training.compare.runner import folder_of, options_of, specs_of
from training.config import as_given, faults_of
from training.data.registry import open_dataset


def refuse_faults(cells: Sequence[Cell], out: Path, data_dir: Path) -> None:
    """Check the options of these cells, look for their backbones, and open each data set once; nothing is decoded.

    Raises:
        UsageError: It names every fault once, with the cells that have it.
        DiskFull: There is no room for a set that has to be fetched.
    """
    specs = {spec for cell in cells for spec in specs_of(cell, data_dir)}
    faults_of = {spec: _fault_of_set(spec, data_dir) for spec in specs}
    having: dict[str, list[str]] = {}
    for cell in cells:
        absent = (faults_of[spec] for spec in specs_of(cell, data_dir))
        for fault in [*absent, *_faults_of_options(cell, out)]:
            if fault:
                having.setdefault(fault, []).append(cell.name)
    if having:
        named = "; ".join(f"{fault}, in {_some(names)}" for fault, names in having.items())
        raise UsageError(f"nothing was run: {named}", hint="mend the grid, or say where the images lie with --data-dir")


def _fault_of_set(spec: str, data_dir: Path) -> str | None:
    try:
        open_dataset(spec, data_dir)
    except DiskFull:
        raise
    except PgnError as error:
        return str(error)
    return None


def _faults_of_options(cell: Cell, out: Path) -> list[str]:
    try:
        read_spec(as_given(cell.dataset, folder_of(out, cell), **options_of(cell)).backbone)
    except ValidationError as error:
        return faults_of(error)
    except PgnError as error:
        return [str(error)]
    return []


def _some(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"
