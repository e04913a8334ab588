"""Prompts written into the image do what the prompts themselves do, and the report says where they cannot.

The towers are small and random, with the layouts of real ones; the numbers of the method notes (4.2) were measured on
larger. Features are compared at length 1.
"""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from pgn.backbone_spec import BackboneSpec, Preprocess
from pgn.bundle import GeneratorSpec
from pgn.errors import UsageError
from pgn.method.backbone import FrozenBackbone, adapt, build_vit
from pgn.method.generator import Generator, build_generator
from pgn.method.inversion import Inversion, PromptedImages, to_8_bit
from pgn.method.projection import PatchInverse, PatchProjection, projection_of

CLIP = {"patch_size": 8, "width": 48, "layers": 3, "heads": 2, "mlp_ratio": 4.0, "output_dim": 24}
TIMM = {"model": "vit_tiny_patch16_224", "patch_size": 8, "embed_dim": 48, "depth": 3, "num_heads": 2}
VIT_B_32 = {"patch_size": 32, "width": 768, "layers": 12, "heads": 12, "mlp_ratio": 4.0, "output_dim": 512}


def make_tower(library: str, architecture: dict[str, object], size: int) -> FrozenBackbone:
    """A seeded random tower; timm's bias of the patch projection, which starts at 0, is set."""
    spec = BackboneSpec(
        name="random",
        library=library,
        architecture={**architecture, ("image_size" if library == "open_clip" else "img_size"): size},
        activation="quick_gelu",
        preprocess=Preprocess(size=size, interpolation="bicubic", mean=(0.48, 0.46, 0.41), std=(0.27, 0.26, 0.28)),
        weights_sha256="0" * 64,
    )
    torch.manual_seed(0)
    vit = build_vit(spec)
    for name, parameter in vit.named_parameters():
        if name == "patch_embed.proj.bias":
            torch.nn.init.normal_(parameter)
    return adapt(vit, spec)


@pytest.fixture(params=[("open_clip", CLIP), ("timm", TIMM)], ids=["clip", "timm"])
def tower(request: pytest.FixtureRequest) -> FrozenBackbone:
    """A small tower of each library: 3 x 3 patches of 8 px, width 48, the CLIP one without bias."""
    return make_tower(*request.param, size=24)


def make_generator(backbone: FrozenBackbone, library: str = "latent", *, num_prompts: int = 6) -> Generator:
    """An untrained generator whose prompts are about as long as patch tokens and differ between images."""
    spec = GeneratorSpec(
        encoder="resnet10",
        encoder_width=4,
        num_prompts=num_prompts,
        library_size=16,
        embed_dim=backbone.embed_dim,
        library=library,
        patch_size=backbone.patch_size if library == "rgb" else None,
        input_size=backbone.spec.preprocess.size,
    )
    torch.manual_seed(1)
    generator = build_generator(spec, projection_of(backbone)).eval()
    generator.to_logits.weight.data *= 20
    if library == "latent":
        torch.nn.init.normal_(generator.library.tokens, std=0.5)
    return generator


def squares_for(backbone: FrozenBackbone, count: int = 3) -> Tensor:
    size = backbone.spec.preprocess.size
    return torch.randint(0, 256, (count, size, size, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))


def set_condition(backbone: FrozenBackbone, condition: float) -> None:
    """Give the patch projection this ratio of its largest to its smallest singular value."""
    weight = projection_of(backbone).weight
    left, strengths, right = torch.linalg.svd(weight.flatten(1).double(), full_matrices=False)
    wanted = torch.logspace(0, -np.log10(condition), len(strengths), dtype=torch.float64) * strengths[0]
    weight.copy_((left @ wanted.diag() @ right).view(weight.shape))


@torch.no_grad()
def features(backbone: FrozenBackbone, inputs: Tensor, prompts: Tensor | None = None) -> Tensor:
    return F.normalize(backbone(inputs, prompts), dim=-1)


def difference(left: Tensor, right: Tensor) -> float:
    return (left - right).abs().max().item()


def through_png(pixels: Tensor) -> Tensor:
    """(B, H, W, 3) uint8, each image encoded and decoded."""
    decoded = []
    for array in pixels.numpy():
        buffer = io.BytesIO()
        Image.fromarray(array).save(buffer, "PNG")
        decoded.append(np.asarray(Image.open(io.BytesIO(buffer.getvalue()))))
    return torch.from_numpy(np.stack(decoded))


class TestLatentPrompts:
    @pytest.mark.parametrize(("condition", "tolerance"), [(None, 1e-5), (1e2, 1e-5), (1e4, 1e-4)])
    def test_a_tall_image_is_the_prompts(self, tower, condition, tolerance):
        """In floating point the frozen ViT alone, given the tall image, finds the features of the full PGN."""
        if condition is not None:
            set_condition(tower, condition)
        generator, squares = make_generator(tower), squares_for(tower)
        images = tower.normalise(squares)
        with torch.no_grad():
            latent = features(tower, images, generator(images))
        inversion = Inversion(tower, generator)
        prompted = inversion(squares)
        assert not inversion.exact
        assert prompted.residual < 1e-6
        assert difference(features(tower, prompted.inputs(tower.normalise)), latent) < tolerance
        assert difference(features(tower, images), latent) > 1e-3  # the prompts do something at all

    def test_the_condition_number_is_reported(self, tower):
        """It says how far the pixels will leave their range."""
        set_condition(tower, 300)
        inverse = PatchInverse(projection_of(tower))
        assert inverse.condition == pytest.approx(300, rel=1e-3)
        assert inverse.rank == inverse.width == 48

    def test_float64_is_needed(self, tower):
        """With a condition number of 1e4 a float32 pseudo-inverse puts other tokens into the image."""
        set_condition(tower, 1e4)
        projection = projection_of(tower)
        prompts = torch.randn(1, 6, 48)
        ours = projection.double()(PatchInverse(projection).patches(prompts))
        wanted = prompts.double() - (0 if projection.bias is None else projection.bias)
        single = torch.linalg.pinv(projection.weight.flatten(1).float()).double() @ wanted[0].T
        theirs = (projection.weight.flatten(1) @ single).T
        assert (ours - prompts).norm() / prompts.norm() < 1e-6
        # How many digits float32 loses depends on the processor: 1e-4 to 1e-2 were seen.
        assert (theirs - wanted[0]).norm() / wanted.norm() > 1e-5

    def test_the_bias_is_subtracted(self):
        """timm's towers add it to every patch; left in, each prompt would be shifted by it."""
        tower = make_tower("timm", TIMM, 24)
        projection = projection_of(tower)
        prompts = torch.randn(1, 6, 48)
        without = PatchInverse(PatchProjection(projection.weight, None, tower.normalise))
        assert difference(projection(PatchInverse(projection).patches(prompts).float()), prompts) < 1e-4
        assert difference(projection(without.patches(prompts).float()), prompts) > 0.1

    def test_pixels_out_of_range_are_counted_and_lost_in_8_bits(self, tower):
        """A badly conditioned projection sends pixels far out; a PNG of them holds other prompts, and the report says
        so."""
        set_condition(tower, 1e3)
        generator, squares = make_generator(tower), squares_for(tower)
        inversion = Inversion(tower, generator)
        prompted = inversion(squares)
        low, high = prompted.range
        assert low < -1
        assert high > 2
        assert prompted.outside > 0.3
        assert inversion.lost_in_8_bits(prompted.patches) > 0.3
        by_hand = ((prompted.patches < 0) | (prompted.patches > 1)).float().mean().item()
        assert prompted.outside == pytest.approx(by_hand)


class TestRGBLibrary:
    def test_a_png_is_the_prompts(self, tower):
        """Eight bits, encoded and decoded: the frozen ViT finds the features of training's own forward pass."""
        generator, squares = make_generator(tower, "rgb"), squares_for(tower)
        images = tower.normalise(squares)
        with torch.no_grad():
            trained = features(tower, images, generator(images))
        inversion = Inversion(tower, generator)
        prompted = inversion(squares)
        decoded = through_png(prompted.to_8_bit())
        assert difference(features(tower, tower.normalise(decoded)), trained) < 1e-5
        assert difference(features(tower, prompted.inputs(tower.normalise)), trained) < 1e-5
        assert difference(features(tower, images), trained) > 1e-4
        assert inversion.exact
        assert (prompted.residual, prompted.outside) == (0, 0)
        assert inversion.lost_in_8_bits(prompted.patches) == 0

    def test_a_badly_conditioned_projection_costs_nothing(self, tower):
        """No pseudo-inverse is asked."""
        set_condition(tower, 1e4)
        generator, squares = make_generator(tower, "rgb"), squares_for(tower)
        images = tower.normalise(squares)
        with torch.no_grad():
            trained = features(tower, images, generator(images))
        decoded = through_png(Inversion(tower, generator)(squares).to_8_bit())
        assert difference(features(tower, tower.normalise(decoded)), trained) < 1e-5

    @pytest.mark.slow
    @pytest.mark.parametrize("library", ["latent", "rgb"])
    def test_at_clips_real_size(self, library):
        """ViT-B/32 with two rows of seven prompts; and 8 bits cost an RGB library no more than the notes measured."""
        tower = make_tower("open_clip", VIT_B_32, 224)
        generator, squares = make_generator(tower, library, num_prompts=14), squares_for(tower, 2)
        images = tower.normalise(squares)
        with torch.no_grad():
            full = features(tower, images, generator(images))
        prompted = Inversion(tower, generator)(squares)
        assert prompted.pixels().shape == (2, 288, 224, 3)
        assert difference(features(tower, prompted.inputs(tower.normalise)), full) < 1e-5
        if library == "rgb":
            assert difference(features(tower, tower.normalise(through_png(prompted.to_8_bit()))), full) < 1e-5
            library_ = generator.library
            with torch.no_grad():
                unrounded = generator.mixture(images) @ library_.projection(library_.palette())
            exact = features(tower, images, unrounded)
            assert difference(full, exact) < 5e-4
            assert (1 - (full * exact).sum(-1)).max() < 1e-5


@pytest.mark.shared
class TestARealProjection:
    """ViT-Tiny/16, trained on ImageNet: its first layer has a bias and weak directions, unlike random ones."""

    @pytest.fixture
    def trained(self, shared: Path) -> FrozenBackbone:
        """The tower at its own size, 14 x 14 patches."""
        tower = make_tower("timm", {"model": "vit_tiny_patch16_224"}, 224)
        weights = load_file(shared / "backbones/vit_tiny_patch16_224/model.safetensors")
        tower.vit.load_state_dict({name: tensor.float() for name, tensor in weights.items()})
        return tower

    @pytest.mark.parametrize("library", ["latent", "rgb"])
    def test_what_each_library_keeps(self, trained, library):
        """Both are exact in floating point; 8 bits keep an RGB library to the last digit and lose latent prompts."""
        generator, squares = make_generator(trained, library, num_prompts=14), squares_for(trained, 2)
        images = trained.normalise(squares)
        with torch.no_grad():
            full = features(trained, images, generator(images))
        inversion = Inversion(trained, generator)
        prompted = inversion(squares)
        assert inversion.inverse.condition == pytest.approx(115, abs=1)
        assert difference(features(trained, prompted.inputs(trained.normalise)), full) < 1e-4
        by_png = difference(features(trained, trained.normalise(through_png(prompted.to_8_bit()))), full)
        if library == "rgb":
            assert by_png < 1e-5
        else:
            assert prompted.outside > 0.3
            assert by_png > 1e-2


class TestLayout:
    def test_prompt_k_lies_in_row_k_over_grid(self):
        """Row by row, as the backbone reads its own patches; two images keep apart."""
        patches = torch.arange(12).view(2, 6, 1, 1, 1).expand(2, 6, 3, 2, 2) / 20
        prompted = PromptedImages(torch.zeros(2, 6, 6, 3, dtype=torch.uint8), patches, grid=3, residual=0)
        rows = prompted.rows()
        assert rows.shape == (2, 3, 4, 6)
        corners = (rows[:, 0, ::2, ::2] * 20).round().int()
        assert corners.tolist() == [[[0, 1, 2], [3, 4, 5]], [[6, 7, 8], [9, 10, 11]]]

    def test_a_patch_keeps_its_orientation(self, tower):
        """Turned or mirrored it would be another token; the backbone's own projection is asked."""
        patches = torch.rand(2, 6, 3, 8, 8)
        prompted = PromptedImages(squares_for(tower, 2), patches, grid=3, residual=0)
        tokens = tower.project(tower.normalise.rgb(prompted.rows()))
        assert difference(tokens, projection_of(tower)(patches)) < 1e-5

    def test_the_image_above_is_untouched(self, tower):
        """To the bit, in 8 bits as in floating point."""
        squares = squares_for(tower)
        prompted = Inversion(tower, make_generator(tower))(squares)
        assert prompted.to_8_bit().shape == (3, 24 + 16, 24, 3)
        assert torch.equal(prompted.to_8_bit()[:, :24], squares)
        assert torch.equal(prompted.pixels()[:, :24], squares.float() / 255)
        assert torch.equal(prompted.inputs(tower.normalise)[:, :, :24], tower.normalise(squares))

    def test_8_bits_are_cut_and_rounded(self):
        """What PNG can hold of any values."""
        values = torch.tensor([-3.0, 0.0, 0.4999 / 255, 0.5001 / 255, 1.0, 7.0])
        assert to_8_bit(values).tolist() == [0, 0, 0, 1, 255, 255]

    def test_clamped_rows_can_be_looked_at_by_themselves(self, tower):
        """Evidence tells what the cut costs apart from the rounding."""
        set_condition(tower, 1e3)
        prompted = Inversion(tower, make_generator(tower))(squares_for(tower))
        clamped = replace(prompted, patches=prompted.patches.clamp(0, 1))
        assert clamped.outside == 0
        assert difference(clamped.rows(), prompted.rows()) > 1

    @pytest.mark.parametrize(("count", "advice"), [(1, "3 or 6"), (4, "3 or 6"), (7, "6 or 9"), (12, "6 or 9")])
    def test_prompts_that_fill_no_rows_are_refused(self, tower, count, advice):
        """A filler patch would be a token of its own and change the answer; the numbers that fit are told."""
        with pytest.raises(UsageError, match=f"{count} prompts do not fill whole rows of 3 patches") as raised:
            Inversion(tower, make_generator(tower, num_prompts=count))
        assert raised.value.hint == f"train with --num-prompts {advice}"


def test_fixed_prompts_are_inverted_as_well(tower):
    """One prompted border for all images: what visual prompting does, at no training."""
    spec = GeneratorSpec(encoder="none", num_prompts=3, library_size=0, embed_dim=48, input_size=24)
    generator, squares = build_generator(spec), squares_for(tower)
    torch.nn.init.normal_(generator.prompts)
    images = tower.normalise(squares)
    prompted = Inversion(tower, generator)(squares)
    assert torch.equal(prompted.patches[0], prompted.patches[1])
    latent = features(tower, images, generator(images))
    assert difference(features(tower, prompted.inputs(tower.normalise)), latent) < 1e-5
