"""Fixtures of the report: a served and an unserved method, trained for two epochs on 50 digits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from training.config import plan
from training.loop import train


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory, toy_settings: dict[str, Any]) -> dict[str, Path]:
    """Folders of runs by method."""
    root = tmp_path_factory.mktemp("reported")
    for method in ("pgn", "linear"):
        train(plan(["digits"], root / method, method=method, **toy_settings))
    return {method: root / method for method in ("pgn", "linear")}
