"""Fixtures of the stages' tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.pgn.stages.swapping import Swapping, make_swapping


@pytest.fixture
def swapping(tmp_path: Path) -> Swapping:
    """A store in which `pets` can have another version every moment."""
    return make_swapping(tmp_path)
