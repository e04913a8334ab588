"""`pgn compare`, from the file to the tables."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from pgn.errors import SetupError, UsageError
from tests.training.compare.conftest import GRID
from training.compare import runner
from training.compare.command import compare, list_cells
from training.compare.grid import read_grid

Finish = Callable[..., None]


@pytest.fixture
def file(write_grid: Callable[[str], Path]) -> str:
    """The grid of eight cells."""
    return str(write_grid(GRID))


def test_gathering_writes_table_csv_and_plot_and_runs_nothing(file: str, finish: Finish, tmp_path: Path) -> None:
    """While others still train, or after the machine that did is gone."""
    for cell in read_grid(Path(file)).cells()[:4]:
        finish(cell, 0.7)
    table = compare(file, tmp_path / "out", tmp_path, run=False)
    assert table.read_text().startswith("# Two methods on two sets\n")
    assert (tmp_path / "out/plot.png").read_bytes().startswith(b"\x89PNG")
    assert {path.name for path in table.parent.iterdir()} >= {"cells.csv", "groups.csv"}


def test_a_grid_without_results_has_no_plot(file: str, tmp_path: Path) -> None:
    """And the page shows no broken picture."""
    assert "plot.png" not in compare(file, tmp_path / "out", tmp_path, run=False).read_text()


@pytest.mark.usefixtures("images")
@pytest.mark.parametrize(
    ("asked", "names"),
    [({"index": 5}, ["cats.linear.s1"]), ({"only": "2/4"}, ["cats.linear.s0", "cats.linear.s1"])],
)
def test_a_part_of_the_cells_can_be_run(
    file: str, asked: dict[str, int | str], names: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One cell for each pod of an indexed job, or a share for each machine."""
    started: list[str] = []
    monkeypatch.setattr(runner, "plan", lambda specs, out, **given: started.append(out.name))
    monkeypatch.setattr(runner, "train", lambda config: None)
    compare(file, tmp_path / "out", tmp_path, **asked)
    assert started == names


def test_a_cell_that_there_is_not_is_refused(file: str, tmp_path: Path) -> None:
    """A job with too many pods says so."""
    with pytest.raises(UsageError, match="there is no cell 8"):
        compare(file, tmp_path / "out", tmp_path, index=8)


@pytest.fixture
def broken(images: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every cell fails, though its images and options are right."""

    def breaks(config: object) -> None:
        raise SetupError("no such luck")

    monkeypatch.setattr(runner, "plan", lambda specs, out, **given: None)
    monkeypatch.setattr(runner, "train", breaks)


@pytest.mark.usefixtures("broken")
def test_a_cell_that_fails_alone_fails_the_command(file: str, tmp_path: Path) -> None:
    """An indexed job tries it again."""
    with pytest.raises(SetupError, match=r"cell 5, cats\.linear\.s1, failed: no such luck"):
        compare(file, tmp_path / "out", tmp_path, index=5)


@pytest.mark.usefixtures("broken")
def test_cells_that_fail_fail_the_command_once_the_tables_are_written(file: str, tmp_path: Path) -> None:
    """Whoever waits for it sees that something is missing, and how to learn what."""
    with pytest.raises(SetupError, match=r"2 of 2 cells failed \(`pgn compare .*grid\.toml --out .*out --list` says"):
        compare(file, tmp_path / "out", tmp_path, only="2/4")
    assert "no such luck" in (tmp_path / "out/table.md").read_text()


def test_images_that_are_missing_are_told_before_the_first_cell(file: str, tmp_path: Path) -> None:
    """Not in each of eight cells, after each other."""
    with pytest.raises(UsageError) as raised:
        compare(file, tmp_path / "out", tmp_path)
    assert str(raised.value).count("cats.tar") == str(raised.value).count("dogs.tar") == 1
    assert not (tmp_path / "out").exists()


def test_finished_cells_need_no_images(file: str, finish: Finish, tmp_path: Path) -> None:
    """Their tables can be made where only the results are."""
    for cell in read_grid(Path(file)).cells():
        finish(cell, 0.7)
    assert compare(file, tmp_path / "out", tmp_path).exists()


def test_the_list_says_how_far_each_cell_is(file: str, finish: Finish, tmp_path: Path) -> None:
    """Its number is what --cell takes."""
    finish(read_grid(Path(file)).cells()[1], 0.7)
    lines = list_cells(file, tmp_path / "out").splitlines()
    assert lines[:2] == ["0  cats.pgn.s0  waiting", "1  cats.linear.s0  finished, test 70.00 %"]
    assert len(lines) == 8
