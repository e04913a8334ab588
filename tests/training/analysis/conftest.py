"""Fixtures of analyses: a PGN and input-independent prompts, trained for two epochs on 50 digits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from training.analysis.study import Study, study
from training.analysis.subject import Subject, open_subject
from training.config import plan
from training.loop import train


@pytest.fixture(scope="session")
def bundles(tmp_path_factory: pytest.TempPathFactory, toy_settings: dict[str, Any]) -> dict[str, Path]:
    """Bundle files by method, each in the folder of its run."""
    root = tmp_path_factory.mktemp("analysed")
    return {method: train(plan(["digits"], root / method, method=method, **toy_settings)) for method in ("pgn", "iip")}


@pytest.fixture(scope="session")
def subject(bundles: dict[str, Path]) -> Subject:
    """The PGN with digits' 359 test images."""
    return open_subject(bundles["pgn"])


@pytest.fixture(scope="session")
def found(subject: Subject) -> Study:
    """What is inside it, on 60 of them."""
    return study(subject, most=60)
