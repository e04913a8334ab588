"""What a finished run found."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from pgn.errors import ArtefactError
from pgn.method.backbone import load_backbone
from pgn.method.quantise import quantise_linears
from training.result import RunResult, backbone_parameters, count_parameters, finished_bundle, outcome, read_result

FIELDS: dict[str, Any] = {
    "method": "linear",
    "dataset": "digits",
    "specs": ["digits"],
    "seed": 0,
    "bundle": None,
    "weights": "weights.safetensors",
    "reach": "output",
    "input_only": False,
    "served": False,
    "trained_parameters": 170,
    "adapted_parameters": 0,
    "backbone_parameters": 1000,
    "classes": 10,
    "split_sizes": {"train": 50, "val": 179, "test": 359},
    "epochs": 2,
    "best_epoch": 1,
    "seconds": 1.5,
    "val": {"top1": 0.5},
    "test": {"top1": 0.5},
    "linear_probe": {"C": 1.0, "val": {}, "test": {}},
}


def test_a_run_that_has_not_ended_has_no_result(tmp_path: Path) -> None:
    """Nor has a folder without a run."""
    assert read_result(tmp_path) is None


def test_what_is_written_is_what_is_read(tmp_path: Path) -> None:
    """All fields."""
    (tmp_path / "result.json").write_text(json.dumps(FIELDS))
    result = read_result(tmp_path)
    assert result == RunResult(**FIELDS)
    assert result.model_dump() == FIELDS


@pytest.mark.parametrize("text", ["{", '{"bundle": "digits.0123.safetensors"}'])
def test_a_damaged_result_is_named(tmp_path: Path, text: str) -> None:
    """It is never taken for a finished run."""
    (tmp_path / "result.json").write_text(text)
    with pytest.raises(ArtefactError, match=r"result\.json is no result of a run"):
        read_result(tmp_path)


def test_a_finished_run_knows_its_bundle(tmp_path: Path) -> None:
    """One that has not ended has none, nor has one of a method that is only compared; a damaged one is told."""
    assert finished_bundle(tmp_path) is None
    (tmp_path / "result.json").write_text(json.dumps(FIELDS))
    assert finished_bundle(tmp_path) is None
    (tmp_path / "result.json").write_text(json.dumps({**FIELDS, "bundle": "a.safetensors"}))
    assert finished_bundle(tmp_path) == tmp_path / "a.safetensors"
    (tmp_path / "result.json").write_text("{")
    with pytest.raises(ArtefactError, match="no result of a run"):
        finished_bundle(tmp_path)


def test_training_hands_back_the_bundle_or_the_result(tmp_path: Path) -> None:
    """Whichever there is."""
    assert outcome(tmp_path, RunResult(**FIELDS)).name == "result.json"
    assert outcome(tmp_path, RunResult(**{**FIELDS, "bundle": "a.safetensors"})).name == "a.safetensors"


def test_a_tensor_that_is_used_twice_counts_once() -> None:
    """Tied weights are one set of values."""
    layer = nn.Linear(3, 2)
    assert count_parameters([layer.weight, layer.bias, layer.weight]) == 8


def test_int8_values_count_as_any_other(backbone_folder: Path) -> None:
    """A quantised ViT is smaller in bytes, not in values."""
    backbone = load_backbone(backbone_folder)
    whole = backbone_parameters(backbone)
    quantise_linears(backbone.vit)
    assert any(parameter.dtype == torch.int8 for parameter in backbone.parameters())
    assert backbone_parameters(backbone) == whole
