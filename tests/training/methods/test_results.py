"""Every method through the one loop, from images to a result."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from pgn.bundle import read_bundle
from training.config import TrainConfig
from training.loop import train
from training.methods import METHODS
from training.result import outcome, read_result


@pytest.mark.parametrize("name", METHODS)
def test_every_method_ends_with_a_result(name: str, make_config: Callable[..., TrainConfig], clip_folder: Path) -> None:
    """Same fields for all; a bundle for what is served, weights for the rest, epochs for what learns."""
    config = make_config(method=name, backbone=clip_folder)
    path, result = train(config), read_result(config.out)
    assert result is not None
    assert path == outcome(config.out, result)
    assert (result.method, result.reach, result.served) == (name, METHODS[name].reach, METHODS[name].served)
    assert result.input_only == (name in {"iip", "pgn", "vp", "vpt-shallow"})
    assert result.epochs == (0 if name == "zero-shot" else 2)
    assert (result.trained_parameters > 0) == (name != "zero-shot")
    assert result.test["images"] == result.split_sizes["test"] == 359
    if result.served:
        assert read_bundle(path).manifest.method == name
    else:
        assert (config.out / "weights.safetensors").exists()
