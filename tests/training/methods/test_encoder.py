"""The encoder alone: no ViT on the way."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from training.heads import start_head
from training.methods import METHODS
from training.model import AdaptedClassifier
from training.setting import Setting

INPUTS = torch.randn(5, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("encoder", ["resnet10", "resnet18", "mlp"])
def test_the_head_fits_each_encoder(encoder: str, make_setting: Callable[..., Setting]) -> None:
    """Its width is the encoder's, not the ViT's."""
    setting = make_setting(method="encoder", encoder=encoder, crop=16, hidden=24)
    model = AdaptedClassifier(METHODS["encoder"].start(setting), start_head(setting)).train()
    assert model(setting.backbone, INPUTS, None).shape == (5, 10)


def test_the_vit_is_never_asked(make_setting: Callable[..., Setting], monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise the row would not show what the small network knows by itself."""
    setting = make_setting(method="encoder")
    adapter = METHODS["encoder"].start(setting)
    for step in ("embed", "encode", "forward"):
        monkeypatch.setattr(type(setting.backbone), step, lambda *_: pytest.fail("the ViT was run"))
    assert adapter(setting.backbone, INPUTS, None).shape == (5, 32)
