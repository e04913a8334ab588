"""Training on some of an image's patches."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pgn.backbone_spec import BackboneSpec, Preprocess
from pgn.method.backbone import FrozenBackbone, adapt, build_vit, load_backbone
from training.patches import draw_kept, embed_kept

INPUTS = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def backbone(backbone_folder: Path) -> FrozenBackbone:
    """16 patches and a class token."""
    return load_backbone(backbone_folder)


def _rngs() -> list[torch.Generator]:
    return [torch.Generator().manual_seed(image) for image in range(len(INPUTS))]


def test_half_of_the_patches_stay_each_with_its_position(backbone: FrozenBackbone) -> None:
    """Eight of sixteen, unchanged and in their order, behind the class token; each image has its own draw."""
    whole, some = backbone.embed(INPUTS), embed_kept(backbone, INPUTS, draw_kept(backbone, 0.5, _rngs()))
    assert some.shape == (3, 9, 32)
    assert torch.equal(some[:, 0], whole[:, 0])
    places = [[int((kept == whole[image]).all(1).nonzero()) for kept in some[image]] for image in range(len(INPUTS))]
    assert all(row == sorted(set(row)) for row in places)
    assert places[0] != places[1]


def test_all_patches_may_stay(backbone: FrozenBackbone) -> None:
    """--keep 1 is plain training."""
    assert draw_kept(backbone, 1.0, _rngs()) is None
    assert torch.equal(embed_kept(backbone, INPUTS, None), backbone.embed(INPUTS))


@pytest.mark.parametrize(("pool", "may_drop"), [("token", True), ("avg", False)])
def test_patches_are_dropped_only_where_the_class_token_answers(pool: str, may_drop: bool) -> None:
    """A tower that averages its patches counts on all of them; one that reads its class token answers from the rest."""
    tower = {"model": "vit_tiny_patch16_224", "img_size": 32, "embed_dim": 24, "depth": 1, "global_pool": pool}
    spec = BackboneSpec(
        name="toy",
        library="timm",
        architecture=tower,
        activation="gelu",
        preprocess=Preprocess(size=32, interpolation="bicubic", mean=(0.5,) * 3, std=(0.5,) * 3),
        weights_sha256="0" * 64,
    )
    backbone = adapt(build_vit(spec), spec)
    kept = draw_kept(backbone, 0.5, _rngs())
    assert (kept is not None) == may_drop
    if kept is not None:
        tokens = embed_kept(backbone, INPUTS, kept)
        assert tokens.shape == (3, 1 + 2, 24)
        prompted = torch.cat([tokens, torch.ones(3, 2, 24)], dim=1)
        assert backbone.encode(prompted).shape == (3, backbone.num_features)
