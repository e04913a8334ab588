"""Fixtures of comparisons: a grid of two rows on two sets, and cells that are finished without having been trained."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest

from training.compare.grid import Cell, Grid, read_grid
from training.compare.runner import folder_of
from training.result import RunResult

Finish = Callable[..., None]

GRID = """
title = "Two methods on two sets"
seeds = [0, 1]

[common]
epochs = 3

[sets.cats]
dataset = "tar:{data}/cats.tar"
[sets.dogs]
dataset = "tar:{data}/dogs.tar"
epochs = 5

[methods.pgn]
num_prompts = 4
[methods.linear]
"""


@pytest.fixture
def write_grid(tmp_path: Path) -> Callable[[str], Path]:
    """Puts words into grid.toml."""

    def write(text: str) -> Path:
        path = tmp_path / "grid.toml"
        path.write_text(text)
        return path

    return write


@pytest.fixture
def grid(write_grid: Callable[[str], Path]) -> Grid:
    """Eight cells."""
    return read_grid(write_grid(GRID))


@pytest.fixture
def images(class_folders: Path, tmp_path: Path) -> None:
    """What the grid's sets need: cats.tar and dogs.tar, of two classes each."""
    for name in ("cats", "dogs"):
        shutil.make_archive(str(tmp_path / name), "tar", class_folders)


@pytest.fixture
def finish(tmp_path: Path) -> Finish:
    """Leaves a cell's folder as training would; `union` is top-1 by source."""

    def write(cell: Cell, test: float, *, val: float | None = None, probe: float = 0.5, union: Any = None) -> None:
        folder = folder_of(tmp_path / "out", cell)
        folder.mkdir(parents=True)
        config = {"method": cell.method, "dataset": list(cell.dataset), "seed": cell.seed, "recipe": cell.options}
        config["fraction"] = cell.fraction if cell.fraction != 1 else None
        (folder / "config.json").write_text(json.dumps(config))
        (folder / "machine.txt").write_text("a small computer\n")
        (folder / "result.json").write_text(make_result(cell, test, val, probe, union or {}).model_dump_json())

    return write


def make_result(cell: Cell, test: float, val: float | None, probe: float, union: dict[str, float]) -> RunResult:
    """Scores are what is given; all else is plausible."""
    scores = {"images": 200, "top1": test, "top5": 1.0, "loss": 0.5}
    adapted = {"linear": 0, "full": 10_000}.get(cell.method, 1_000)
    return RunResult(
        method=cell.method,
        dataset=cell.set,
        specs=[*cell.dataset],
        seed=cell.seed,
        bundle=None,
        weights="weights.safetensors",
        reach="input" if cell.method in ("pgn", "iip") else "output",
        input_only=cell.method in ("pgn", "iip"),
        served=False,
        trained_parameters=adapted + 100,
        adapted_parameters=adapted,
        backbone_parameters=10_000,
        classes=3,
        split_sizes={"train": round(400 * cell.fraction), "val": 100, "test": 200},
        epochs=3,
        best_epoch=2,
        seconds=90.0,
        val=scores | {"top1": test if val is None else val},
        test=scores | ({"balanced": fmean(union.values()), "by_source": union} if union else {}),
        linear_probe={"C": 0.1, "val": scores | {"top1": probe}, "test": scores | {"top1": probe}},
    )
