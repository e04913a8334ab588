"""Adapter and head around the frozen ViT."""

from __future__ import annotations

from collections.abc import Callable

import torch

from training.config import TrainConfig
from training.heads import start_head
from training.methods import METHODS
from training.model import AdaptedClassifier
from training.setting import prepare

INPUTS = torch.randn(5, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def test_what_learns_is_the_adapter_and_the_head_and_never_the_vit(make_config: Callable[..., TrainConfig]) -> None:
    """The backbone is passed in, so an optimiser over the model cannot meet it."""
    setting = prepare(make_config())
    model = AdaptedClassifier(METHODS["pgn"].start(setting), start_head(setting))
    frozen = {parameter.data_ptr() for parameter in setting.backbone.parameters()}
    assert not frozen & {parameter.data_ptr() for parameter in model.parameters()}
    assert model(setting.backbone, INPUTS, None).shape == (5, 10)


def test_the_head_stays_in_float32_where_the_tower_does_not(make_config: Callable[..., TrainConfig]) -> None:
    """A loss over bfloat16 logits would tell near answers no longer apart."""
    setting = prepare(make_config())
    model = AdaptedClassifier(METHODS["iip"].start(prepare(make_config(method="iip"))), start_head(setting))
    with torch.autocast("cpu", torch.bfloat16):
        assert model.adapter(setting.backbone, INPUTS, None).dtype == torch.bfloat16
        assert model(setting.backbone, INPUTS, None).dtype == torch.float32


def test_one_value_that_is_no_number_is_found_wherever_it_is(make_config: Callable[..., TrainConfig]) -> None:
    """In weights as in BatchNorm's statistics, which no loss in training shows."""
    setting = prepare(make_config())
    model = AdaptedClassifier(METHODS["pgn"].start(setting), start_head(setting))
    assert model.is_finite()
    statistics = next(buffer for name, buffer in model.named_buffers() if name.endswith("running_var"))
    statistics[0] = float("nan")
    assert not model.is_finite()
