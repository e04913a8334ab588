"""The encoders are the paper's: the same layers, sizes and start."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torchvision.models import resnet18

from pgn.bundle import GeneratorSpec
from pgn.method.encoders import CentrePixels, ResidualBlock, ResNet10, ResNet18, build_encoder, resize_for


def trainable(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)


class TestResNet10:
    def test_trainable_values_of_each_stage(self):
        """To the unit those of the authors' network, table 1.2 of the method notes."""
        encoder = ResNet10()
        assert trainable(encoder.stem) == 464
        assert [trainable(block) for block in encoder.blocks] == [4_672, 14_496, 57_664, 230_016]
        assert trainable(encoder) == 307_312

    def test_buffers(self):
        """Running statistics and step counters of nine norms."""
        assert sum(buffer.numel() for buffer in ResNet10().buffers()) == 1_001

    def test_shapes_of_each_stage(self):
        """A 224 px image ends as 7 x 7 places of 128 channels."""
        x, shapes = torch.zeros(1, 3, 224, 224), []
        encoder = ResNet10().eval()
        for stage in (encoder.stem, *encoder.blocks):
            x = stage(x)
            shapes.append(tuple(x.shape[1:]))
        assert shapes == [(16, 56, 56), (16, 56, 56), (32, 28, 28), (64, 14, 14), (128, 7, 7)]

    @pytest.mark.parametrize("width", [4, 16, 24])
    @pytest.mark.parametrize("side", [32, 64, 70])
    def test_any_width_and_image_size_give_one_vector(self, width, side):
        """The average over space makes the size of the image free."""
        encoder = ResNet10(width).eval()
        assert encoder(torch.zeros(2, 3, side, side)).shape == (2, 8 * width) == (2, encoder.features)

    def test_features_are_the_average_over_space(self):
        """No flattening, no maximum."""
        encoder, images = ResNet10(4).eval(), torch.randn(2, 3, 64, 64)
        assert torch.allclose(encoder(images), encoder.blocks(encoder.stem(images)).flatten(2).mean(-1), atol=1e-6)

    def test_convolutions_start_as_kaiming_normal(self):
        """Fan-out and ReLU gain; the largest layer has enough values to tell."""
        torch.manual_seed(0)
        weight = ResNet10().blocks[3].conv1.weight  # 64 to 128 channels: fan-in would differ
        assert weight.std().item() == pytest.approx(math.sqrt(2 / (128 * 9)), rel=0.02)

    def test_only_skips_have_a_bias(self):
        """A bias before a norm would be trained for nothing."""
        names = [name for name, module in ResNet10().named_modules() if getattr(module, "bias", None) is not None]
        assert {name.rpartition(".")[2] for name in names if "norm" not in name} == {"1", "skip"}


class TestResidualBlock:
    def test_a_block_that_keeps_its_shape_skips_by_identity(self):
        """With a silent body the block gives back what came in."""
        block = ResidualBlock(4, 4, stride=1).eval()
        nn.init.zeros_(block.norm2.weight)
        x = torch.rand(1, 4, 8, 8)
        assert torch.equal(block(x), x)

    def test_a_block_that_shrinks_skips_by_a_biased_convolution(self):
        """Every second pixel, mixed by 1 x 1 and without a norm: a quirk of the authors' code."""
        block = ResidualBlock(4, 8, stride=2).eval()
        nn.init.zeros_(block.norm2.weight)
        x = torch.randn(1, 4, 8, 8)
        weight, bias = block.skip.weight[:, :, 0, 0], block.skip.bias[:, None, None]
        by_hand = torch.einsum("oi,bihw->bohw", weight, x[:, :, ::2, ::2]) + bias
        assert torch.allclose(block(x), by_hand.relu(), atol=1e-6)


class TestResNet18:
    def test_trainable_values(self):
        """torchvision's 11,689,512 without the 513,000 of its classifier."""
        encoder = ResNet18()
        assert (trainable(encoder), encoder.features) == (11_176_512, 512)

    def test_it_takes_torchvisions_weights(self):
        """Whoever has the ImageNet file can start from it; the features are those in front of the classifier."""
        theirs, encoder = resnet18().eval(), ResNet18().eval()
        encoder.net.load_state_dict({k: v for k, v in theirs.state_dict().items() if not k.startswith("fc.")})
        images = torch.randn(2, 3, 64, 64)
        with torch.no_grad():
            assert torch.allclose(theirs.fc(encoder(images)), theirs(images), atol=1e-5)


class TestCentrePixels:
    def test_only_the_crop_is_seen(self):
        """The border could hold anything."""
        encoder, images = CentrePixels(crop=6, hidden=5), torch.randn(2, 3, 16, 16)
        border = images.clone()
        border[:, :, 5:11, 5:11] = 0
        assert torch.equal(encoder(images), encoder(images - border))
        assert not torch.equal(encoder(images), encoder(border))

    def test_each_feature_is_one_unit_on_the_pixels(self):
        """One layer and no more: the projection to logits is the second of the paper's two."""
        encoder, images = CentrePixels(crop=4, hidden=5), torch.randn(2, 3, 4, 4)
        assert torch.equal(encoder(images), encoder.layer(images.flatten(1)).relu())
        assert trainable(encoder) == 5 * 48 + 5
        assert encoder.features == 5


class TestBuilding:
    @pytest.mark.parametrize(
        ("options", "kind", "features"),
        [
            ({"encoder": "resnet10", "encoder_width": 4}, ResNet10, 32),
            ({"encoder": "resnet18"}, ResNet18, 512),
            ({"encoder": "mlp", "crop": 12, "hidden": 7}, CentrePixels, 7),
            ({"encoder": "resnet10", "projection": "mlp", "hidden": 7}, ResNet10, 128),
        ],
    )
    def test_the_spec_names_the_encoder(self, options, kind, features):
        """Each gives one vector of the width it says, for images of the input size."""
        spec = GeneratorSpec(num_prompts=1, library_size=2, embed_dim=3, input_size=32, **options)
        encoder = build_encoder(spec).eval()
        assert type(encoder) is kind
        assert encoder(resize_for(spec, torch.randn(2, 3, 48, 48))).shape == (2, features)
        assert encoder.features == features
