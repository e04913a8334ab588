"""Full fine-tuning: a copy learns, the original never."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from pgn.errors import UsageError
from pgn.method.backbone import FrozenBackbone
from training.heads import start_head
from training.methods import METHODS, full
from training.model import AdaptedClassifier
from training.setting import Setting

INPUTS = torch.randn(5, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("kind", ["tower", "supervised", "dino"])
def test_a_step_moves_the_copy_alone(kind: str, make_setting: Callable[..., Setting]) -> None:
    """The frozen ViT is the same bits after it, though both began equal."""
    setting, method = make_setting(kind, method="full"), METHODS["full"]
    before = {name: tensor.clone() for name, tensor in setting.backbone.state_dict().items()}
    model = AdaptedClassifier(method.start(setting), start_head(setting)).train()
    optimizer = torch.optim.AdamW(method.groups(model.adapter, setting.config))
    model(setting.backbone, INPUTS, None).square().sum().backward()
    optimizer.step()
    with torch.no_grad():
        assert not torch.allclose(model.adapter(setting.backbone, INPUTS, None), setting.backbone(INPUTS), atol=1e-4)
    assert all(torch.equal(tensor, before[name]) for name, tensor in setting.backbone.state_dict().items())


@pytest.mark.parametrize("wish", [True, False])
def test_the_copy_is_compiled_if_the_run_is(
    make_setting: Callable[..., Setting], monkeypatch: pytest.MonkeyPatch, wish: bool
) -> None:
    """A copy of compiled blocks is not."""
    compiled: list[FrozenBackbone] = []
    monkeypatch.setattr(full, "compile_blocks", compiled.append)
    adapter = METHODS["full"].start(make_setting(method="full", compile=wish))
    assert isinstance(adapter, full.OwnTower)
    assert compiled == [adapter.tower] * wish


def test_norms_and_biases_are_not_decayed(make_setting: Callable[..., Setting]) -> None:
    """Weight decay would pull a norm's scale from 1 towards 0."""
    setting, method = make_setting(method="full"), METHODS["full"]
    matrices, vectors = method.groups(method.start(setting), setting.config)
    assert matrices["weight_decay"] == setting.config.weight_decay
    assert vectors["weight_decay"] == 0
    assert {parameter.ndim for parameter in vectors["params"]} == {1}


def test_int8_weights_cannot_be_fine_tuned(make_setting: Callable[..., Setting]) -> None:
    """They take no gradient; the message says where the float ones are."""
    with pytest.raises(UsageError, match=r"toy-int8 are int8 and cannot be fine-tuned .*float folder"):
        make_setting("int8", method="full")
