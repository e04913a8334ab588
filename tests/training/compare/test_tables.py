"""The summary as people and programs read it."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from pathlib import Path

import pytest

from training.compare.grid import Grid, read_grid
from training.compare.runner import folder_of
from training.compare.summary import summarise
from training.compare.tables import cells_csv, groups_csv, markdown

Finish = Callable[..., None]
WriteGrid = Callable[[str], Path]


def _page(grid: Grid, out: Path) -> str:
    return markdown(summarise(grid, out), command="pgn compare grid.toml", machines=["a small computer"])


def _row(page: str, name: str) -> list[str]:
    (line,) = [line for line in page.splitlines() if line.startswith(f"| {name} |")]
    return [cell.strip() for cell in line.strip("|").split("|")]


@pytest.fixture
def finished(grid: Grid, finish: Finish) -> Grid:
    """All eight cells: PGN 70 and 72 % on cats, 60 and 66 on dogs; linear 5 points below; the probe at 50."""
    tests = {"cats": (0.70, 0.72), "dogs": (0.60, 0.66)}
    for cell in grid.cells():
        finish(cell, tests[cell.set][cell.seed] - (0.05 if cell.row == "linear" else 0))
    return grid


def test_a_row_has_means_spreads_price_and_lead(finished: Grid, tmp_path: Path) -> None:
    """Everything that the choice of a method needs, in one line."""
    assert _row(_page(finished, tmp_path / "out"), "pgn") == [
        "pgn",
        "**71.00 ± 1.41**",
        "**63.00 ± 4.24**",
        "**67.00 ± 2.83**",
        "+17.00 (above on 2 of 2)",
        "1,100",
        "1,000",
        "11 %",
        "yes",
        "1.5",
    ]


def test_leads_are_compared_on_the_same_sets(write_grid: WriteGrid, finish: Finish, tmp_path: Path) -> None:
    """A row on the easy set alone must not look better than one on both."""
    words = 'title = ""\n[sets]\neasy = {dataset = "folder:easy"}\nhard = {dataset = "folder:hard"}\n'
    words += 'new = {dataset = "folder:new"}\n[methods.pgn]\n[methods.full]\n'
    words += '[[blocks]]\nsets = ["easy", "hard"]\n[[blocks]]\nmethods = ["pgn"]\nsets = ["new"]\n'
    grid = read_grid(write_grid(words))
    for cell in grid.cells():
        finish(cell, {"easy": 0.9, "hard": 0.6, "new": 0.51}[cell.set] - (0.05 if cell.row == "full" else 0))
    page = _page(grid, tmp_path / "out")
    assert "| mean of 2 | over the probe | mean of 3 | over the probe |" in page
    assert _row(page, "pgn")[4:8] == ["**75.00**", "+25.00 (above on 2 of 2)", "**67.00**", "+17.00 (above on 3 of 3)"]
    assert _row(page, "full")[4:8] == ["70.00", "+20.00 (above on 2 of 2)", "–", "–"]


def test_the_page_says_how_it_was_made(finished: Grid, tmp_path: Path) -> None:
    """Command, cells, machine, and how many images are behind a number."""
    page = _page(finished, tmp_path / "out")
    assert "Made by `pgn compare grid.toml`: 8 cells, 8 finished, 0 failed." in page
    assert "Run on a small computer." in page
    assert _row(page, r"*images: training / test*")[1:3] == ["400 / 200", "400 / 200"]


def test_what_is_missing_is_said_and_never_bold(grid: Grid, finish: Finish, tmp_path: Path) -> None:
    """Half a result must not pass for one."""
    cells = {cell.name: cell for cell in grid.cells()}
    finish(cells["cats.pgn.s0"], 0.99)
    finish(cells["cats.linear.s0"], 0.6)
    finish(cells["cats.linear.s1"], 0.6)
    folder = folder_of(tmp_path / "out", cells["dogs.pgn.s0"])
    folder.mkdir(parents=True)
    (folder / "error.txt").write_text("the loss is nan (lower the rates)\n")
    page = _page(grid, tmp_path / "out")
    assert _row(page, "pgn")[1:3] == ["*99.00 (1 of 2 seeds)*", "*failed*"]
    assert _row(page, "linear")[1:3] == ["**60.00 ± 0.00**", "*not run*"]
    assert "- pgn on dogs seed 0 failed: the loss is nan (lower the rates)" in page
    assert "8 cells, 3 finished, 1 failed" in page


def test_the_choice_of_a_candidate_is_in_the_notes(write_grid: WriteGrid, finish: Finish, tmp_path: Path) -> None:
    """Held to validation, and open to see."""
    words = 'title = ""\n[sets.cats]\ndataset = "folder:cats"\n[methods.iip]\nsearch.library_rate = [0.01, 0.1]\n'
    grid = read_grid(write_grid(words))
    for cell in grid.cells():
        finish(cell, 0.5, val=cell.searched["library_rate"])
    assert "- iip on cats: validation chose library_rate 0.1, of 2 candidates." in _page(grid, tmp_path / "out")


def test_rows_may_be_divided_into_tables(write_grid: WriteGrid, finish: Finish, tmp_path: Path) -> None:
    """The row that others differ from stands in each of them."""
    words = 'title = ""\n[sets.cats]\ndataset = "folder:cats"\n'
    words += '[methods]\npgn = {tables = ["K", "N"]}\n'
    words += '"K 2" = {method = "pgn", tables = ["K"]}\n"N 2" = {method = "pgn", tables = ["N"]}\n'
    page = _page(read_grid(write_grid(words)), tmp_path / "out")
    first, second = page.split("## N\n")
    assert [name in first for name in ("## K\n", "| pgn |", "| K 2 |", "| N 2 |")] == [True, True, True, False]
    assert [name in second for name in ("| pgn |", "| K 2 |", "| N 2 |")] == [True, False, True]


def test_shares_of_the_images_are_columns(write_grid: WriteGrid, finish: Finish, tmp_path: Path) -> None:
    """One table a set, from few images to all."""
    words = 'title = ""\nfractions = [1.0, 0.1]\n[sets.cats]\ndataset = "folder:cats"\n[methods.pgn]\n'
    grid = read_grid(write_grid(words))
    for cell in grid.cells():
        finish(cell, 0.4 + 0.5 * cell.fraction)
    page = _page(grid, tmp_path / "out")
    assert "| method | 10 % | 100 % |" in page
    assert _row(page, "pgn") == ["pgn", "45.00", "**90.00**"]
    assert _row(page, "*images: training / test*")[1:] == ["40 / 200", "400 / 200"]


def test_a_union_stands_beside_its_sets_alone(write_grid: WriteGrid, finish: Finish, tmp_path: Path) -> None:
    """What one PGN for all of them costs in accuracy, and saves in parameters; it is no third set to a mean."""
    words = 'title = ""\n[sets]\ncats = {dataset = "folder:cats"}\ndogs = {dataset = "folder:dogs"}\n'
    words += 'both = {dataset = ["folder:cats", "folder:dogs"]}\n[methods.pgn]\n'
    grid = read_grid(write_grid(words))
    cats, dogs, both = grid.cells()
    finish(cats, 0.9)
    finish(dogs, 0.7)
    finish(both, 0.8, union={"cats": 0.86, "dogs": 0.70})
    page = _page(grid, tmp_path / "out")
    assert _row(page, "pgn, one for all") == ["pgn, one for all", "86.00", "70.00", "78.00", "1,000"]
    assert _row(page, "pgn, one for each") == ["pgn, one for each", "90.00", "70.00", "80.00", "2,000"]
    assert _row(page, "pgn")[3:5] == ["**78.00**", "**80.00**"]
    assert "| mean of 2 |" in page


def test_a_union_says_how_far_its_seeds_lie_apart_and_which_are_missing(
    write_grid: WriteGrid, finish: Finish, tmp_path: Path
) -> None:
    """One seed of three is not the result."""
    words = 'title = ""\nseeds = [0, 1, 2]\n[sets.both]\ndataset = ["folder:cats", "folder:dogs"]\n[methods.pgn]\n'
    grid = read_grid(write_grid(words))
    for cell, dogs in zip(grid.cells()[:2], (0.6, 0.8), strict=True):
        finish(cell, 0.8, union={"cats": 0.8, "dogs": dogs})
    page = _page(grid, tmp_path / "out")
    row = _row(page, "pgn, one for all (2 of 3 seeds)")
    assert row[1:4] == ["80.00 ± 0.00", "70.00 ± 14.14", "75.00 ± 7.07"]


def test_every_cell_is_a_row_of_the_csv(finished: Grid, tmp_path: Path) -> None:
    """Raw numbers, to be reckoned with again."""
    rows = list(csv.DictReader(io.StringIO(cells_csv(summarise(finished, tmp_path / "out")))))
    assert len(rows) == 8
    assert rows[0]["cell"] == "cats.pgn.s0"
    assert (rows[0]["state"], rows[0]["test_top1"], rows[0]["probe_test_top1"]) == ("finished", "0.7", "0.5")
    assert rows[0]["trained_parameters"] == "1100"


def test_a_waiting_cell_has_empty_fields(grid: Grid, tmp_path: Path) -> None:
    """Not zeros, which would be numbers."""
    rows = list(csv.DictReader(io.StringIO(cells_csv(summarise(grid, tmp_path / "out")))))
    assert {(row["state"], row["test_top1"], row["counts"]) for row in rows} == {("waiting", "", "no")}


def test_groups_are_rows_of_the_other_csv(finished: Grid, tmp_path: Path) -> None:
    """Mean and standard deviation, the probe among them."""
    rows = list(csv.DictReader(io.StringIO(groups_csv(summarise(finished, tmp_path / "out")))))
    assert [(row["row"], row["set"]) for row in rows][:3] == [
        ("linear probe", "cats"),
        ("linear probe", "dogs"),
        ("pgn", "cats"),
    ]
    assert rows[2]["test_mean"] == "0.71"
    assert float(rows[2]["test_std"]) == pytest.approx(0.014142, abs=1e-6)
    assert rows[2]["seeds"] == "0 1"
