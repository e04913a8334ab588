"""What would fail every cell is told before the first."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from pgn.errors import DiskFull, UsageError
from training.compare import check
from training.compare.check import refuse_faults
from training.compare.grid import Grid, read_grid

WriteGrid = Callable[[str], Path]


def _faults(path: Path) -> str:
    with pytest.raises(UsageError) as raised:
        refuse_faults(read_grid(path).cells(), path.parent / "out", path.parent)
    return str(raised.value)


@pytest.mark.usefixtures("images")
def test_cells_that_can_be_run_pass(grid: Grid, tmp_path: Path) -> None:
    """Nothing is decoded, and nothing written."""
    refuse_faults(grid.cells(), tmp_path / "out", tmp_path)
    assert not (tmp_path / "out").exists()


def test_all_faults_are_named_at_once_with_the_cells_that_have_them(write_grid: WriteGrid) -> None:
    """Values, options, images: mended in one go."""
    words = 'seeds = [0, 1]\n[sets.a]\ndataset = "tar:{data}/a.tar"\n[sets.digits]\ndataset = "digits"\n'
    words += '[methods.pgn]\nepochs = "x"\n[methods.linear]\non.a.start_from = "b"\n'
    said = _faults(write_grid(words))
    assert "epochs = 'x': Input should be a valid integer" in said
    assert "in a.pgn.s0 and 3 more;" in said  # epochs of both sets and seeds
    assert "linear cannot start from a bundle" in said
    assert said.count("a.tar cannot be read") == 1
    assert "\n" not in said


def test_a_backbone_that_is_not_there_is_told(write_grid: WriteGrid) -> None:
    """The shipped grids want one that has to be fetched first."""
    said = _faults(write_grid('[sets.digits]\ndataset = "digits"\n[methods.pgn]\nbackbone = "nowhere"\n'))
    assert "there is no backbone folder nowhere" in said


def test_each_set_is_opened_once(grid: Grid, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Listing a set of a million files takes a while."""
    opened: list[str] = []
    monkeypatch.setattr(check, "open_dataset", lambda spec, data_dir: opened.append(spec))
    refuse_faults(grid.cells(), tmp_path / "out", tmp_path)
    assert sorted(opened) == [f"tar:{tmp_path}/cats.tar", f"tar:{tmp_path}/dogs.tar"]


def test_a_full_disk_is_no_fault_of_the_grid(grid: Grid, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sets that have to be fetched may not fit."""

    def full(spec: str, data_dir: Path) -> None:
        raise DiskFull("no room left")

    monkeypatch.setattr(check, "open_dataset", full)
    with pytest.raises(DiskFull):
        refuse_faults(grid.cells(), tmp_path / "out", tmp_path)
