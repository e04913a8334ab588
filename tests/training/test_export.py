"""From a trained model to its files, and back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pgn.errors import ArtefactError
from tests.toys import make_backbone
from training.config import TrainConfig
from training.export import load_weights
from training.loop import train
from training.scores import logits_of, score
from training.setting import prepare


@pytest.fixture
def config(make_config: Callable[..., TrainConfig]) -> TrainConfig:
    """Of a finished run whose method makes no bundle."""
    made = make_config(method="vpt-shallow")
    train(made)
    return made


def test_weights_come_back_as_the_model_that_was_scored(config: TrainConfig) -> None:
    """Whoever compares methods later sees what the table says."""
    setting = prepare(config)
    model = load_weights(setting, config.out / "weights.safetensors")
    logits = logits_of(setting.backbone, model.adapter, model.head.plain(), setting.val)
    history = (config.out / "log.jsonl").read_text()
    assert f'"val_top1": {score(logits, setting.val.labels).top1}' in history


@pytest.mark.parametrize("damage", [b"", b"nonsense"])
def test_damaged_weights_are_one_line(config: TrainConfig, damage: bytes) -> None:
    """Which file, and no traceback."""
    file = config.out / "weights.safetensors"
    file.write_bytes(damage)
    with pytest.raises(ArtefactError, match=r"weights\.safetensors cannot be read"):
        load_weights(prepare(config), file)


def test_weights_of_another_vit_are_refused(config: TrainConfig, tmp_path: Path) -> None:
    """They would fit by their shapes, and answer nonsense."""
    make_backbone(tmp_path / "other", seed=9)
    setting = prepare(config.model_copy(update={"backbone": tmp_path / "other"}))
    with pytest.raises(ArtefactError, match="was trained on backbone"):
        load_weights(setting, config.out / "weights.safetensors")


def test_weights_of_another_shape_are_refused(config: TrainConfig) -> None:
    """Of a run with other options."""
    setting = prepare(config)
    other = config.model_copy(update={"recipe": config.recipe.model_copy(update={"num_prompts": 7})})
    with pytest.raises(ArtefactError, match="cannot be read"):
        load_weights(replace(setting, config=other), config.out / "weights.safetensors")


def test_what_is_kept_has_no_counters(config: TrainConfig) -> None:
    """BatchNorm's count of batches differs after a resume and is read by nobody; the files are to be equal."""
    from safetensors.torch import load_file

    names = load_file(config.out / "weights.safetensors")
    assert names
    assert not [name for name in names if name.endswith("num_batches_tracked")]
    assert all(tensor.dtype == torch.float32 for tensor in names.values())
