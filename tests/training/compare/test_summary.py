"""What cells say together."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from training.compare.grid import Grid, read_grid
from training.compare.summary import PROBE, mean_over_sets, summarise

Finish = Callable[..., None]
WriteGrid = Callable[[str], Path]

SEARCH = """
title = "Search"
seeds = [0, 1]
[sets.cats]
dataset = "tar:{data}/cats.tar"
[methods.iip]
search.library_rate = [0.01, 0.1]
"""


def test_mean_and_spread_are_over_the_seeds(grid: Grid, finish: Finish, tmp_path: Path) -> None:
    """The standard deviation of a sample: with two seeds their distance over the root of two."""
    cells = {cell.name: cell for cell in grid.cells()}
    for name, test in (("cats.pgn.s0", 0.70), ("cats.pgn.s1", 0.72), ("dogs.pgn.s0", 0.60), ("dogs.pgn.s1", 0.66)):
        finish(cells[name], test)
    summary = summarise(grid, tmp_path / "out")
    groups = [summary.group("pgn", "cats"), summary.group("pgn", "dogs")]
    value, deviation = mean_over_sets([group for group in groups if group])
    assert value == pytest.approx(0.67)
    assert deviation == pytest.approx(0.04 / 2**0.5)


def test_validation_alone_chooses_the_candidate(write_grid: WriteGrid, finish: Finish, tmp_path: Path) -> None:
    """The other candidate is better on test, and nobody may know."""
    grid = read_grid(write_grid(SEARCH))
    for cell in grid.cells():
        low = cell.searched["library_rate"] == 0.01
        finish(cell, test=0.6 if low else 0.9, val=0.8 if low else 0.7)
    group = summarise(grid, tmp_path / "out").group("iip", "cats")
    assert group
    assert group.chosen == {"library_rate": 0.01}
    assert [*group.test.values()] == [0.6, 0.6]


def test_a_candidate_without_all_its_seeds_is_not_chosen(write_grid: WriteGrid, finish: Finish, tmp_path: Path) -> None:
    """One lucky seed would win; and the group is not complete before all candidates are."""
    grid = read_grid(write_grid(SEARCH))
    first, lucky, second, _ = grid.cells()
    assert [cell.searched["library_rate"] for cell in (first, lucky, second)] == [0.01, 0.1, 0.01]
    for cell, val in ((first, 0.7), (second, 0.7), (lucky, 0.99)):
        finish(cell, 0.5, val=val)
    group = summarise(grid, tmp_path / "out").group("iip", "cats")
    assert group
    assert group.chosen == {"library_rate": 0.01}
    assert group.candidates == (2, 1)
    assert not group.is_complete


def test_the_linear_probe_is_a_row_without_cells(grid: Grid, finish: Finish, tmp_path: Path) -> None:
    """Every run has measured it, on the same features."""
    finish(grid.cells()[0], 0.7, probe=0.55)
    probe = summarise(grid, tmp_path / "out").group(PROBE, "cats")
    assert probe
    assert [*probe.test.values()] == [0.55]
    assert probe.results[0].trained_parameters == 100


def test_a_probe_that_is_not_one_number_is_left_out(grid: Grid, finish: Finish, tmp_path: Path) -> None:
    """Runs on other features, so no yardstick for all of them."""
    finish(grid.cells()[0], 0.7, probe=0.55)
    finish(grid.cells()[1], 0.7, probe=0.65)
    assert PROBE not in summarise(grid, tmp_path / "out").rows


def test_means_are_compared_only_where_all_rows_are_complete(grid: Grid, finish: Finish, tmp_path: Path) -> None:
    """A mean over easy sets is no better than one over all."""
    for cell in grid.cells():
        if cell.set == "cats" or cell.row == "pgn":
            finish(cell, 0.7)
    summary = summarise(grid, tmp_path / "out")
    assert summary.common_sets(["pgn", "linear"]) == ("cats",)
    assert summary.common_sets(["pgn"]) == ("cats", "dogs")


def test_a_union_is_the_mean_of_its_sets(grid: Grid, finish: Finish, tmp_path: Path) -> None:
    """Or the larger set would decide."""
    finish(grid.cells()[0], 0.9, union={"a": 0.9, "b": 0.3})
    group = summarise(grid, tmp_path / "out").group("pgn", "cats")
    assert group
    assert group.test == {0: 0.6}
