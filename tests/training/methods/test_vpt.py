"""Visual prompt tuning: where its prompts go, layer by layer."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from pgn.method.backbone import FrozenBackbone
from training.methods import METHODS
from training.methods.vpt import FreePrompts, draw_prompts
from training.result import count_parameters
from training.setting import Setting

INPUTS = torch.randn(5, 3, 32, 32, generator=torch.Generator().manual_seed(0))
KINDS = ("tower", "supervised", "average", "dino")


def _prompts(layers: int) -> Tensor:
    return torch.randn(layers, 4, 32, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("layers", "count"), [(1, 7_680), (12, 92_160)])
def test_ten_prompts_on_vit_b_have_the_papers_size(layers: int, count: int) -> None:
    """K D for shallow, L K D for deep."""
    assert count_parameters(FreePrompts(torch.zeros(layers, 10, 768), 0.1).parameters()) == count


@pytest.mark.parametrize("kind", KINDS)
def test_shallow_prompts_are_input_independent_prompts(kind: str, make_setting: Callable[..., Setting]) -> None:
    """Tokens have no order: before the patches or behind them, the features are the same."""
    backbone = make_setting(kind).backbone
    with torch.no_grad():
        shallow = FreePrompts(_prompts(1), 0.0)(backbone, INPUTS, None)
        assert torch.allclose(shallow, backbone(INPUTS, _prompts(1).expand(5, -1, -1)), atol=1e-5)
        assert not torch.allclose(shallow, backbone(INPUTS), atol=1e-2)


@pytest.mark.parametrize("kind", KINDS)
def test_deep_prompts_are_replaced_in_front_of_every_block(kind: str, make_setting: Callable[..., Setting]) -> None:
    """Behind the class token and registers; the first ones before `enter`, what a block makes of them is dropped."""
    backbone, prompts = make_setting(kind).backbone, _prompts(2)
    start = backbone.num_prefix
    with torch.no_grad():
        tokens = backbone.embed(INPUTS)
        given = prompts[:, None].expand(-1, 5, -1, -1)
        tokens = backbone.enter(torch.cat([tokens[:, :start], given[0], tokens[:, start:]], dim=1))
        tokens = backbone.blocks[0](tokens)
        tokens[:, start : start + 4] = given[1]
        tokens = backbone.blocks[1](tokens)
        own = torch.cat([tokens[:, :start], tokens[:, start + 4 :]], dim=1)
        deep = FreePrompts(prompts, 0.0)(backbone, INPUTS, None)
        assert torch.allclose(deep, backbone.read_out(own), atol=1e-6)


def test_prompts_are_dropped_in_training_alone(make_setting: Callable[..., Setting]) -> None:
    """And anew for each image."""
    adapter = FreePrompts(torch.ones(2, 4, 32), dropout=0.5)
    own = torch.zeros(3, 17, 32)
    dropped = adapter.train().prompts(0, own)
    assert not torch.equal(dropped[0], dropped[1])
    assert (adapter.eval().prompts(0, own) == 1).all()


def test_the_start_is_uniform_within_the_papers_bound() -> None:
    """sqrt(6 / (3 P^2 + D)): 0.0625 for ViT-B/16."""

    class Shape(FrozenBackbone):
        embed_dim, patch_size = 768, 16

    drawn = draw_prompts(Shape, 50)  # type: ignore[type-abstract, arg-type]
    assert drawn.shape == (50, 768)
    assert drawn.abs().max() <= 0.0625
    assert drawn.abs().max() == pytest.approx(0.0625, rel=1e-2)
    assert drawn.std().item() == pytest.approx(0.0625 / math.sqrt(3), rel=2e-2)


def test_each_row_has_its_number_of_layers(make_setting: Callable[..., Setting]) -> None:
    """Shallow has one set of prompts, deep one for each of the two blocks."""
    for name, layers in (("vpt-shallow", 1), ("vpt-deep", 2)):
        adapter = METHODS[name].start(make_setting(method=name))
        assert isinstance(adapter, FreePrompts)
        assert adapter.values.shape == (layers, 4, 32)
