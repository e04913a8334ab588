"""The table of finished runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from pgn.errors import UsageError
from training.config import TrainConfig
from training.loop import train
from training.shipped import MARKER, write_report


@pytest.fixture
def runs(make_config: Callable[..., TrainConfig], tmp_path: Path) -> list[Path]:
    """Two seeds of a PGN, one of input-independent prompts, and a run that has not ended."""
    settings = [{"seed": 0}, {"seed": 1}, {"method": "iip"}]
    folders = [tmp_path / f"run{number}" for number in range(4)]
    for folder, changes in zip(folders, settings, strict=False):
        train(make_config(out=folder, epochs=1, **changes))
    folders[3].mkdir()
    return folders


def test_every_run_is_in_the_table_with_its_command(runs: list[Path], tmp_path: Path) -> None:
    """All seeds, mean and standard error, both yardsticks, a verdict, and how to make each."""
    write_report(runs, tmp_path / "results.md")
    text = (tmp_path / "results.md").read_text()
    for line in ("## digits", "| method | seed 0 | seed 1 |", "| pgn |", "| iip |", "| linear probe (C "):
        assert line in text
    assert "points ahead of the linear probe" in text or "points behind the linear probe" in text
    assert text.count("pgn train --dataset digits") == 3


def test_words_above_the_marker_are_kept(runs: list[Path], tmp_path: Path) -> None:
    """A person's reading stands above the numbers and outlives them."""
    out = tmp_path / "results.md"
    out.write_text(f"# Mine\n\nWhy it is so.\n\n{MARKER}\nold numbers\n")
    write_report(runs, out)
    assert out.read_text().startswith("# Mine\n\nWhy it is so.\n")
    assert "old numbers" not in out.read_text()


def test_without_a_finished_run_nothing_is_written(tmp_path: Path) -> None:
    """An empty table would look like a result."""
    with pytest.raises(UsageError, match="holds a finished run"):
        write_report([tmp_path], tmp_path / "results.md")
    assert not (tmp_path / "results.md").exists()
