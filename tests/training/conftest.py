"""Fixtures of training: a toy backbone folder, small class folders, and configs that train for a second."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.toys import make_backbone, write_images
from training.config import TrainConfig, plan


@pytest.fixture(autouse=True)
def _few_threads() -> None:
    """Toy tensors are faster on one thread than shared out to several."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def backbone_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A seeded random 32 px tower, as a user would pass it to --backbone."""
    folder = tmp_path_factory.mktemp("backbones") / "toy"
    make_backbone(folder)
    return folder


@pytest.fixture(scope="session")
def feature_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Plain features of the toy backbone, shared by all tests."""
    return tmp_path_factory.mktemp("features")


@pytest.fixture(scope="session")
def toy_settings(backbone_folder: Path, feature_cache: Path) -> dict[str, Any]:
    """Options of `plan` for two epochs of two steps on 50 digits."""
    return {
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


@pytest.fixture
def make_config(tmp_path: Path, toy_settings: dict[str, Any]) -> Callable[..., TrainConfig]:
    """A config for two epochs of two steps on 50 digits; keywords change it."""

    def make(**changes: Any) -> TrainConfig:
        return plan(changes.pop("dataset", ["digits"]), **{"out": tmp_path / "run", **toy_settings, **changes})

    return make


@pytest.fixture
def class_folders(tmp_path: Path) -> Path:
    """Ten PNG files in each of two class folders."""
    root = tmp_path / "My Pets"
    for name, seed in (("dog", 1), ("cat", 2)):
        write_images(root / name, 10, seed=seed)
    return root
