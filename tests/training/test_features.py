"""Plain features are made once."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import torch
from PIL import Image

from pgn.method.backbone import FrozenBackbone, load_backbone
from training.data import images as images_module
from training.data.dataset import Example
from training.data.digits import digits
from training.data.images import load_split
from training.features import plain_features


def test_features_come_from_the_cache_the_second_time(
    backbone_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The backbone is not asked again, and the values are the same."""
    backbone = load_backbone(backbone_folder)
    images = load_split(digits(), "val", backbone.spec.preprocess)
    made = plain_features(backbone, images, tmp_path)
    monkeypatch.setattr(FrozenBackbone, "forward", lambda *_: pytest.fail("the backbone was asked again"))
    assert torch.equal(plain_features(backbone, images, tmp_path), made)


def test_other_images_have_other_features(backbone_folder: Path, tmp_path: Path) -> None:
    """The cache is keyed by what the images look like, not by their names."""
    backbone = load_backbone(backbone_folder)
    for limit in (2, 3):
        images = load_split(digits().limited(limit, None), "train", backbone.spec.preprocess)
        assert plain_features(backbone, images, tmp_path).shape == (10 * limit, 16)


def test_a_split_that_is_not_kept_is_decoded_no_more_often_than_needed(
    backbone_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once to know that it can be read, once for its features, and for features that are there already not again."""
    monkeypatch.setattr(images_module, "CACHE_LIMIT_BYTES", 0)
    backbone = load_backbone(backbone_folder)
    decoded: Counter[str] = Counter()

    def counted(example: Example) -> Image.Image:
        decoded[example.name] += 1
        return example.source.read()

    monkeypatch.setattr(Example, "read", counted)
    dataset = digits().limited(2, None)
    for times in (2, 3):
        plain_features(backbone, load_split(dataset, "train", backbone.spec.preprocess), tmp_path)
        assert set(decoded.values()) == {times}
