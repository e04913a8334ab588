"""The predictor is the measure of serving: generator, backbone and head in one process."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pgn.bundle import Bundle, read_bundle
from pgn.errors import BundleIncompatible
from pgn.images import read_square
from pgn.method.backbone import FrozenBackbone, load_backbone
from pgn.method.generator import load_generator
from pgn.method.head import load_head
from pgn.method.predictor import Predictor
from pgn.method.projection import projection_of
from tests.toys import make_backbone, make_bundle, make_images


@pytest.fixture(scope="module")
def backbone(tmp_path_factory) -> FrozenBackbone:
    """The toy backbone, loaded from its folder."""
    folder = tmp_path_factory.mktemp("backbone") / "toy"
    make_backbone(folder)
    return load_backbone(folder)


@pytest.fixture
def bundle(tmp_path, backbone) -> Bundle:
    """A toy bundle of three classes for that backbone."""
    return read_bundle(make_bundle(tmp_path, "digits", backbone.digest))


@pytest.fixture(scope="module")
def pixels() -> torch.Tensor:
    """Five different images as the backbone's squares."""
    squares = [read_square(image, 32, interpolation="bicubic") for image in make_images(5)]
    return torch.from_numpy(np.stack(squares))


def test_probabilities_sum_to_one(backbone, bundle, pixels):
    """One row an image, one column a class."""
    probabilities = Predictor(backbone, bundle).probabilities(pixels)
    assert (probabilities.shape, probabilities.dtype) == ((5, 3), torch.float32)
    assert torch.allclose(probabilities.sum(-1), torch.ones(5), atol=1e-6)


def test_it_is_generator_backbone_and_head_in_turn(backbone, bundle, pixels):
    """The two served stages do the same with a message in between."""
    images = backbone.normalise(pixels)
    features = backbone(images, load_generator(bundle)(images))
    by_hand = (load_head(bundle)(features) / 1.5).softmax(-1)  # 1.5 is the toy bundle's temperature
    assert torch.allclose(Predictor(backbone, bundle).probabilities(pixels), by_hand, atol=1e-6)


def test_different_images_get_different_answers(backbone, bundle, pixels):
    """A model that had stopped looking would pass most other tests."""
    probabilities = Predictor(backbone, bundle).probabilities(pixels)
    assert (torch.pdist(probabilities) > 1e-4).all()


def test_a_batch_equals_its_rows_taken_singly(backbone, bundle, pixels):
    """Who else is being served changes no answer."""
    predictor = Predictor(backbone, bundle)
    rows = torch.cat([predictor.probabilities(row[None]) for row in pixels])
    assert torch.allclose(predictor.probabilities(pixels), rows, atol=1e-5)


def test_an_rgb_bundle_uses_the_backbones_own_first_layer(backbone, tmp_path, pixels):
    """Its prompts are pixels until the frozen ViT's patch projection has read them."""
    rgb = read_bundle(make_bundle(tmp_path, "digits", backbone.digest, library="rgb"))
    images = backbone.normalise(pixels)
    features = backbone(images, load_generator(rgb, projection_of(backbone))(images))
    by_hand = (load_head(rgb)(features) / 1.5).softmax(-1)
    assert torch.allclose(Predictor(backbone, rgb).probabilities(pixels), by_hand, atol=1e-6)


def test_the_frozen_vit_can_be_asked_alone(backbone, bundle, pixels):
    """Without the generator: what the head makes of the plain image."""
    images = backbone.normalise(pixels)
    by_hand = (load_head(bundle)(backbone(images)) / 1.5).softmax(-1)
    assert torch.allclose(Predictor(backbone, bundle).probabilities_alone(images), by_hand, atol=1e-6)


def test_a_bundle_of_another_backbone_is_refused(backbone, tmp_path):
    """It would answer, and wrongly."""
    other = read_bundle(make_bundle(tmp_path, "digits", "cd" * 32))
    with pytest.raises(BundleIncompatible, match="was trained on toy, not on toy"):
        Predictor(backbone, other)
