"""Fixtures of the report: a served and an unserved method, trained for two epochs on 50 digits."""

from __future__ import annotations

from pathlib import Path

import pytest

from training.config import plan
from training.loop import train


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory, backbone_folder: Path, feature_cache: Path) -> dict[str, Path]:
    """Folders of runs by method."""
    settings = {
        "backbone": backbone_folder,
        "cache": feature_cache,
        "encoder_width": 4,
        "input_size": 32,
        "num_prompts": 4,
        "library_size": 6,
        "epochs": 2,
        "batch_size": 25,
        "limit": 5,
        "bf16": False,
    }
    root = tmp_path_factory.mktemp("reported")
    for method in ("pgn", "linear"):
        train(plan(["digits"], root / method, method=method, **settings))
    return {method: root / method for method in ("pgn", "linear")}
