"""Values that are kept on disk."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from pgn.errors import SetupError
from training.cache import kept


def _makes(value: float) -> dict[str, Tensor]:
    return {"value": torch.tensor(value)}


def test_what_was_made_is_not_made_again(tmp_path: Path) -> None:
    """By the same key; another one is another value."""
    assert kept(tmp_path / "cache", b"one", lambda: _makes(1))["value"] == 1
    assert kept(tmp_path / "cache", b"one", lambda: pytest.fail("made again"))["value"] == 1
    assert kept(tmp_path / "cache", b"two", lambda: _makes(2))["value"] == 2


def test_a_damaged_file_is_made_again(tmp_path: Path) -> None:
    """A full disk may have cut it short; it holds nothing that could not be made."""
    kept(tmp_path, b"one", lambda: _makes(1))
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:10])
    assert kept(tmp_path, b"one", lambda: _makes(1))["value"] == 1
    assert kept(tmp_path, b"one", lambda: pytest.fail("not mended"))["value"] == 1


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    """A file lies where the cache should be."""
    (tmp_path / "cache").write_bytes(b"")
    with pytest.raises(SetupError, match="cache cannot be written"):
        kept(tmp_path / "cache", b"one", lambda: _makes(1))
