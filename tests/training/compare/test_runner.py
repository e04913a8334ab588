"""Cells are run, stopped, gone on with, and never run twice."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from pgn.errors import ArtefactError, DiskFull, UsageError
from training.compare import runner
from training.compare.grid import Grid, read_grid
from training.compare.runner import error_of, folder_of, result_of, run_cells
from training.config import TrainConfig, plan

WriteGrid = Callable[[str], Path]

TOY = """
title = "Toy"
[common]
epochs = 1
limit = 3
limit_val = 3
bf16 = false
num_prompts = 2
library_size = 4
encoder_width = 4
input_size = 32
batch_size = 15
backbone = "{backbone}"
cache = "{cache}"
[sets.digits]
dataset = "digits"
[methods.iip]
[methods.missing]
method = "pgn"
on.digits.backbone = "nowhere"
"""


@pytest.fixture
def toy(write_grid: WriteGrid, backbone_folder: Path, feature_cache: Path) -> Grid:
    """A cell that trains in a second, and one that cannot."""
    words = TOY.replace("{backbone}", str(backbone_folder)).replace("{cache}", str(feature_cache))
    return read_grid(write_grid(words))


def test_a_failed_cell_leaves_its_line_and_the_others_go_on(toy: Grid, tmp_path: Path) -> None:
    """One bad cell must not cost a night."""
    good, bad = toy.cells()
    run_cells([bad, good], tmp_path / "out", tmp_path)
    found = result_of(tmp_path / "out", good)
    assert found is not None
    assert found.method == "iip"
    assert result_of(tmp_path / "out", bad) is None
    assert "nowhere" in (error_of(tmp_path / "out", bad) or "")


def test_a_finished_cell_is_never_run_again(
    grid: Grid, finish: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its result stays as it is; the rest is run in the grid's order."""
    started: list[str] = []
    monkeypatch.setattr(runner, "plan", lambda specs, out, **given: started.append(out.name))
    monkeypatch.setattr(runner, "train", lambda config: None)
    cells = grid.cells()
    finish(cells[0], 0.7)
    run_cells(cells[:3], tmp_path / "out", tmp_path)
    assert started == [cells[1].name, cells[2].name]


def test_a_cell_gets_its_own_options(grid: Grid, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Images from where they lie on this machine, and the seed."""
    given: list[tuple[list[str], dict[str, object]]] = []
    monkeypatch.setattr(runner, "plan", lambda specs, out, **options: given.append((specs, options)))
    monkeypatch.setattr(runner, "train", lambda config: None)
    run_cells([grid.cells()[6]], tmp_path / "out", tmp_path / "images")
    ((specs, options),) = given
    assert specs == [f"tar:{tmp_path}/images/dogs.tar"]
    assert options == {
        "method": "pgn",
        "seed": 1,
        "data_dir": tmp_path / "images",
        "epochs": 5,
        "num_prompts": 4,
    }


def test_a_smaller_share_of_the_images_reaches_training(write_grid: WriteGrid, tmp_path: Path) -> None:
    """The config of the run says so, and the result counts them."""
    words = 'title = ""\nfractions = [0.1]\n[sets.digits]\ndataset = "digits"\n[methods.pgn]\n'
    (cell,) = read_grid(write_grid(words)).cells()
    seen: list[TrainConfig] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner, "train", seen.append)
        run_cells([cell], tmp_path / "out", tmp_path)
    assert seen[0].fraction == 0.1


def test_the_time_budget_cuts_the_running_cell_off(
    grid: Grid, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is no failure: the cell has no error and goes on from its checkpoint next time."""

    def never_ends(config: object) -> None:
        while True:
            pass

    monkeypatch.setattr(runner, "plan", lambda specs, out, **given: None)
    monkeypatch.setattr(runner, "train", never_ends)
    run_cells(grid.cells(), tmp_path / "out", tmp_path, minutes=0.002)
    assert not list((tmp_path / "out").rglob("error.txt"))
    assert "minutes are up" in capsys.readouterr().err


def test_a_full_disk_stops_the_grid(grid: Grid, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All other cells would fail for the same reason."""

    def full(config: object) -> None:
        raise DiskFull("no room left")

    monkeypatch.setattr(runner, "plan", lambda specs, out, **given: None)
    monkeypatch.setattr(runner, "train", full)
    with pytest.raises(DiskFull):
        run_cells(grid.cells(), tmp_path / "out", tmp_path)


def test_an_error_is_forgotten_when_the_cell_is_tried_again(
    grid: Grid, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was mended does not stay in the table."""
    cell = grid.cells()[0]
    run_cells([cell], tmp_path / "out", tmp_path)  # there is no cats.tar
    assert "cats.tar cannot be read" in (error_of(tmp_path / "out", cell) or "")
    monkeypatch.setattr(runner, "plan", lambda specs, out, **given: None)
    monkeypatch.setattr(runner, "train", lambda config: None)
    run_cells([cell], tmp_path / "out", tmp_path)
    assert error_of(tmp_path / "out", cell) is None


def test_an_unforeseen_error_names_its_kind(
    grid: Grid, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """One line in the table; the traceback is in the log."""

    def breaks(specs: list[str], out: Path, **given: object) -> None:
        raise ZeroDivisionError("division\nby zero")

    monkeypatch.setattr(runner, "plan", breaks)
    run_cells([grid.cells()[0]], tmp_path / "out", tmp_path)
    assert error_of(tmp_path / "out", grid.cells()[0]) == "ZeroDivisionError: division by zero"
    assert "Traceback" in caplog.text


def test_a_result_of_other_options_is_refused(grid: Grid, finish: Callable[..., None], tmp_path: Path) -> None:
    """A grid that was changed must not show the numbers of what it was before."""
    cell = grid.cells()[0]
    finish(cell, 0.7)
    config = folder_of(tmp_path / "out", cell) / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"recipe": {"epochs": 3, "num_prompts": 8}}))
    with pytest.raises(UsageError, match=r"num_prompts 8 there, 4 in the grid.*delete it"):
        result_of(tmp_path / "out", cell)


@pytest.mark.parametrize("text", [None, "", '{"method": ', "[1]", "null", '{"recipe": {}, "out": 3}'])
def test_a_finished_cell_whose_config_is_damaged_is_one_clear_line(
    text: str | None, grid: Grid, finish: Callable[..., None], tmp_path: Path
) -> None:
    """Copied from another machine by half; without it nobody knows whose numbers these are."""
    cell = grid.cells()[0]
    finish(cell, 0.7)
    config = folder_of(tmp_path / "out", cell) / "config.json"
    config.unlink() if text is None else config.write_text(text)
    with pytest.raises(
        ArtefactError, match=r"config\.json is no config of a run: .*delete .*cats\.pgn\.s0, and"
    ) as raised:
        result_of(tmp_path / "out", cell)
    assert "\n" not in str(raised.value)


def test_what_training_fills_in_by_the_method_is_what_the_grid_leaves_open(
    write_grid: WriteGrid, finish: Callable[..., None], tmp_path: Path
) -> None:
    """The encoder's rate depends on what it learns, and is nobody's other option."""
    words = 'title = "Rates"\n[sets.digits]\ndataset = "digits"\n[methods.encoder]\n[methods.pgn]\nencoder_first = 2\n'
    for cell in read_grid(write_grid(words)).cells():
        finish(cell, 0.7)
        folder = folder_of(tmp_path / "out", cell)
        config = plan(cell.dataset, folder, method=cell.method, seed=cell.seed, **cell.options)
        (folder / "config.json").write_text(config.model_dump_json())
        assert result_of(tmp_path / "out", cell) is not None


def test_images_may_lie_elsewhere_today(grid: Grid, finish: Callable[..., None], tmp_path: Path) -> None:
    """A finished cell is the same on another machine: only the last part of a path counts."""
    cell = grid.cells()[0]
    finish(cell, 0.7)
    config = folder_of(tmp_path / "out", cell) / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"dataset": ["tar:/elsewhere/cats.tar"]}))
    assert result_of(tmp_path / "out", cell) is not None


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"keep": 0.5}, "keep 0.5 there, 1.0 in the grid"),
        ({"augment": "none"}, "augment 'none' there, 'small' in the grid"),
        ({"recipe": {"epochs": 3, "num_prompts": 4, "encoder_first": 9}}, "encoder_first 9 there, 0 in the grid"),
        ({"dataset": ["folder:/elsewhere/cats.tar"]}, "folder:/elsewhere/cats.tar"),
        ({"seed": 5}, "seed 5 there, 0 in the grid"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_the_grid_leaves_open_has_to_be_the_default(
    change: dict[str, object], said: str, grid: Grid, finish: Callable[..., None], tmp_path: Path
) -> None:
    """An option that was taken out of the file is a change, too."""
    cell = grid.cells()[0]
    finish(cell, 0.7)
    config = folder_of(tmp_path / "out", cell) / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | change))
    with pytest.raises(UsageError, match=said):
        result_of(tmp_path / "out", cell)
