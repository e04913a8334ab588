"""Whether cells can be run at all: what would fail every one of them is told before the first is started."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from pydantic import ValidationError

from pgn.backbone_spec import read_spec
from pgn.errors import DiskFull, PgnError, UsageError
from training.compare.grid import Cell
from training.compare.runner import folder_of, options_of, specs_of
from training.config import Recipe, TrainConfig
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
        absent = [fault for spec in specs_of(cell, data_dir) if (fault := faults_of[spec])]
        for fault in [*absent, *_faults_of_options(cell, out)]:
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


def _faults_of_options(cell: Cell, out: Path) -> Iterable[str]:
    given = options_of(cell)
    recipe = {name: given.pop(name) for name in [*given] if name in Recipe.model_fields}
    try:
        fields = {"dataset": cell.dataset, "out": folder_of(out, cell), "recipe": recipe, **given}
        read_spec(TrainConfig.model_validate(fields).backbone)
    except ValidationError as error:
        for fault in error.errors():
            option = ".".join(str(part) for part in fault["loc"] if part != "recipe")
            yield f"{option} = {fault['input']!r}: {fault['msg']}"
    except PgnError as error:
        yield str(error)


def _some(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"
