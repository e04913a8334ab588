"""Training on some of an image's patches."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pgn.method.backbone import FrozenBackbone, load_backbone
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
