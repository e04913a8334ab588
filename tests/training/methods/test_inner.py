"""The walk through the blocks that VPT and VAPT share."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from pgn.errors import UsageError
from training.methods.inner import InnerPrompts, need_plain_tokens
from training.setting import Setting

INPUTS = torch.randn(5, 3, 32, 32, generator=torch.Generator().manual_seed(0))


class Noting(InnerPrompts):
    """Two prompts before the first layer, none of its own later; notes what each layer shows it."""

    num_prompts = 2

    def __init__(self) -> None:
        super().__init__()
        self.shown: list[Tensor] = []

    def prompts(self, layer: int, own: Tensor) -> Tensor | None:
        self.shown.append(own)
        return torch.ones(len(own), 2, own.shape[2]) if layer == 0 else None


@pytest.mark.parametrize("kind", ["tower", "supervised", "average", "dino"])
def test_a_layer_is_shown_the_vits_own_tokens_alone(kind: str, make_setting: Callable[..., Setting]) -> None:
    """Class token, registers and patches in their places, never a prompt: so VAPT's convolution sees a whole grid."""
    backbone, adapter = make_setting(kind).backbone, Noting()
    adapter(backbone, INPUTS, None)
    assert len(adapter.shown) == len(backbone.blocks)
    assert {own.shape for own in adapter.shown} == {(5, backbone.num_prefix + backbone.grid**2, backbone.embed_dim)}
    assert torch.equal(adapter.shown[0], backbone.embed(INPUTS))


def test_patches_that_a_step_leaves_out_reach_no_layer(make_setting: Callable[..., Setting]) -> None:
    """Unless the method reads the grid."""
    backbone, adapter = make_setting().backbone, Noting()
    kept = torch.arange(6).repeat(5, 1)
    adapter(backbone, INPUTS, kept)
    assert {own.shape[1] for own in adapter.shown} == {6}
    whole = Noting()
    whole.reads_grid = True
    whole(backbone, INPUTS, kept)
    assert {own.shape[1] for own in whole.shown} == {backbone.num_prefix + backbone.grid**2}


def test_a_vit_whose_blocks_want_a_grid_is_refused(
    make_setting: Callable[..., Setting], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before anything is trained, with what can be had instead."""
    backbone = make_setting().backbone
    need_plain_tokens(backbone, "vapt")

    class Grid(nn.Module):
        def forward(self, tokens: Tensor) -> Tensor:
            return tokens.view(1, backbone.grid, backbone.grid, -1)

    monkeypatch.setattr(type(backbone), "blocks", [Grid()])
    with pytest.raises(UsageError, match="vapt puts prompts before blocks of the ViT, and those of toy take no plain"):
        need_plain_tokens(backbone, "vapt")
