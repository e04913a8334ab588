"""Where the class token looks."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch

from pgn.backbone_spec import BackboneSpec, Preprocess
from pgn.method.backbone import FrozenBackbone, adapt, load_backbone
from training.analysis.attention import class_attention


@pytest.fixture(params=["open_clip", "timm"])
def backbone(request: pytest.FixtureRequest, backbone_folder: Path) -> FrozenBackbone:
    """A tiny random tower of either library, with a grid of 4 x 4 patches."""
    if request.param == "open_clip":
        return load_backbone(backbone_folder)
    torch.manual_seed(0)
    options = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 4, "num_classes": 0}
    spec = BackboneSpec(
        name="toy",
        library="timm",
        architecture={"model": "vit_tiny_patch16_224", **options},
        activation="gelu",
        preprocess=Preprocess(size=32, interpolation="bicubic", mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)),
        weights_sha256="0" * 64,
    )
    return adapt(timm.create_model("vit_tiny_patch16_224", **options), spec)


@torch.no_grad()
def test_attention_is_beside_the_very_features_that_it_led_to(backbone: FrozenBackbone) -> None:
    """The look inside changes nothing."""
    images, prompts = torch.randn(3, 3, 32, 32), torch.randn(3, 5, 32)
    for given in (None, prompts):
        features, _ = class_attention(backbone, images, given)
        assert torch.allclose(features, backbone(images, given), atol=1e-5)


@torch.no_grad()
def test_shares_of_patches_and_prompts_are_below_one_together(backbone: FrozenBackbone) -> None:
    """The rest is what the class token pays to itself."""
    _, attention = class_attention(backbone, torch.randn(3, 3, 32, 32), torch.randn(3, 5, 32))
    assert attention.shape == (3, 21)
    assert (attention >= 0).all()
    assert ((attention.sum(1) > 0.5) & (attention.sum(1) < 1)).all()


@torch.no_grad()
def test_attention_is_what_the_last_block_mixes_values_with(backbone: FrozenBackbone) -> None:
    """A block whose values are one-hot in the token's place shows its weights in its output."""
    images, place = torch.randn(1, 3, 32, 32), 7
    tokens = backbone.enter(backbone.embed(images))
    for block in list(backbone.blocks)[:-1]:
        tokens = block(tokens)
    last = list(backbone.blocks)[-1]
    _, attention = class_attention(backbone, images, None)
    mixed = _mix_one_hot(last, tokens, place=1 + place)
    assert mixed.item() == pytest.approx(attention[0, place].item(), abs=1e-5)


def _mix_one_hot(block, tokens: torch.Tensor, *, place: int) -> torch.Tensor:
    """What the class token gets, by torch's own attention, if the token at `place` holds ones and the others zeros."""
    if hasattr(block, "ln_1"):
        x, weight, bias, heads = (
            block.ln_1(tokens),
            block.attn.in_proj_weight,
            block.attn.in_proj_bias,
            block.attn.num_heads,
        )
    else:
        x, weight, bias, heads = block.norm1(tokens), block.attn.qkv.weight, block.attn.qkv.bias, block.attn.num_heads
    queries, keys, _ = torch.nn.functional.linear(x, weight, bias).chunk(3, -1)
    values = torch.zeros_like(keys)
    values[:, place] = 1
    split = [t.unflatten(-1, (heads, -1)).transpose(1, 2) for t in (queries, keys, values)]
    return torch.nn.functional.scaled_dot_product_attention(*split).transpose(1, 2).flatten(-2)[0, 0].mean()
