"""Prompts are convex mixtures of library tokens, or tokens of convex mixtures of library patches."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pgn.backbone_spec import Preprocess
from pgn.method.library import MARGIN, RGBLibrary, TokenLibrary
from pgn.method.pixels import Normalise
from pgn.method.projection import PatchProjection


@given(st.integers(0, 2**32), st.integers(1, 9), st.integers(1, 9), st.floats(0, 30))
def test_prompts_stay_within_the_librarys_range(seed, library_size, embed_dim, sharpness):
    """No prompt lies outside its library, however sharp or soft the mixture."""
    generator = torch.Generator().manual_seed(seed)
    library = TokenLibrary(library_size, embed_dim)
    logits = sharpness * torch.randn(3, 2, library_size, generator=generator)
    with torch.no_grad():
        prompts = library(logits.softmax(-1))
    low, high = library.tokens.amin(0), library.tokens.amax(0)
    assert prompts.shape == (3, 2, embed_dim)
    assert ((prompts >= low - 1e-6) & (prompts <= high + 1e-6)).all()


def test_a_one_sided_mixture_is_a_token():
    """All weight on token 2 gives token 2."""
    library = TokenLibrary(4, 8)
    mixture = torch.zeros(1, 1, 4)
    mixture[..., 2] = 1
    assert torch.equal(library(mixture)[0, 0], library.tokens[2])


def test_an_even_mixture_is_the_mean():
    """Where the generator knows nothing, every prompt is the same."""
    library = TokenLibrary(4, 8)
    assert torch.allclose(library(torch.full((1, 3, 4), 0.25)), library.tokens.mean(0).expand(1, 3, 8))


def test_tokens_start_small():
    """Standard deviation 0.02, as in the authors' code."""
    torch.manual_seed(0)
    assert TokenLibrary(256, 768).tokens.std().item() == pytest.approx(0.02, rel=0.01)


def projection(embed_dim: int = 16, patch_size: int = 4) -> PatchProjection:
    """A random first layer with a bias, and a normalisation that differs between channels."""
    preprocess = Preprocess(size=32, interpolation="bicubic", mean=(0.5, 0.4, 0.3), std=(0.25, 0.2, 0.5))
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(embed_dim, 3, patch_size, patch_size, generator=generator) / 7
    return PatchProjection(weight, torch.randn(embed_dim, generator=generator), Normalise(preprocess))


def mixtures(library_size: int, sharpness: float = 3.0, seed: int = 0) -> torch.Tensor:
    """(3, 2, N), two prompts of three images."""
    generator = torch.Generator().manual_seed(seed)
    return (sharpness * torch.randn(3, 2, library_size, generator=generator)).softmax(-1)


class TestRGBLibrary:
    @given(st.integers(0, 2**32), st.integers(1, 300), st.floats(0, 50), st.floats(0, 30))
    def test_patches_are_grey_levels_whatever_the_weights(self, seed, library_size, spread, sharpness):
        """Never above 1 nor below 0, and each one of the 256 values that a PNG can hold, to the bit."""
        library = RGBLibrary(library_size, projection(2, 2))
        torch.nn.init.normal_(library.pixel_logits, std=spread)
        with torch.no_grad():
            patches = library.patches(mixtures(library_size, sharpness, seed))
        levels = (patches * 255).round().to(torch.uint8)
        assert patches.shape == (3, 2, 3, 2, 2)
        assert torch.equal(levels.float() / 255, patches)

    @pytest.mark.parametrize("logit", [-1e4, 1e4])
    def test_black_and_white_stay_in_range(self, logit):
        """Shares that sum to a hair more than 1 must not make whiter than white."""
        library = RGBLibrary(300, projection(2, 2))
        torch.nn.init.constant_(library.pixel_logits, logit)
        assert set(library.patches(mixtures(300)).unique().tolist()) == {float(logit > 0)}

    def test_mixing_pixels_is_mixing_tokens(self):
        """Shares sum to 1 and the projection is affine: but for the rounding, an RGB library is a latent one."""
        library, mixture = RGBLibrary(9, projection()), mixtures(9)
        tokens = library.projection(library.palette())
        pixels = torch.einsum("bkn,nchw->bkchw", mixture, library.palette())
        assert torch.allclose(library.projection(pixels), mixture @ tokens, atol=1e-5)
        assert (library.patches(mixture) - pixels).abs().max() <= 0.5 / 255 + 1e-6

    def test_prompts_are_the_tokens_of_the_patches(self):
        """What is trained is what a picture of the patches will be to the ViT."""
        library, mixture = RGBLibrary(9, projection()), mixtures(9)
        assert torch.equal(library(mixture), library.projection(library.patches(mixture)))

    def test_rounding_lets_the_gradient_pass(self):
        """A rounded value has slope 0 everywhere; the library learns as if nothing were rounded."""
        library, mixture = RGBLibrary(9, projection()), mixtures(9)
        target = torch.randn(3, 2, 3, 4, 4)
        (rounded,) = torch.autograd.grad((library.patches(mixture) * target).sum(), library.pixel_logits)
        plain = torch.einsum("bkn,nchw->bkchw", mixture, library.palette())
        (unrounded,) = torch.autograd.grad((plain * target).sum(), library.pixel_logits)
        assert torch.allclose(rounded, unrounded, atol=1e-6)
        assert rounded.abs().max() > 0.01

    def test_rounding_is_the_same_in_training_and_serving(self):
        """What the ViT was trained with is what a PNG holds."""
        library, mixture = RGBLibrary(9, projection()), mixtures(9)
        assert torch.equal(library.train().patches(mixture), library.eval().patches(mixture))

    @pytest.mark.parametrize("count", [2, 5, 8])
    def test_it_starts_from_patches(self, count):
        """Patches of real images, used again where they are too few; black and white give way a little to be able to
        move."""
        library, patches = RGBLibrary(5, projection()), torch.rand(count, 3, 4, 4)
        patches[0, 0, 0, 0], patches[1, 0, 0, 0] = 0, 1
        library.start_from(patches)
        wanted = patches[torch.arange(5) % count].clamp(MARGIN, 1 - MARGIN)
        assert torch.allclose(library.palette(), wanted, atol=1e-6)
        assert library.pixel_logits.requires_grad

    def test_it_starts_from_tokens_that_pixels_can_stand_for(self):
        """The first forward is then that of a latent library that holds these tokens, but for the rounding."""
        torch.manual_seed(0)
        library = RGBLibrary(5, projection())
        tokens = library.projection(0.5 + 0.02 * torch.randn(5, 3, 4, 4))
        library.start_from_tokens(tokens)
        assert torch.allclose(library.projection(library.palette()), tokens, atol=1e-4)

    def test_tokens_out_of_reach_are_cut_to_the_range(self):
        """Weak directions ask for pixels far outside; the start is then near the token and can still learn."""
        library = RGBLibrary(5, projection())
        library.start_from_tokens(50 * torch.randn(5, 16))
        low, high = library.palette().amin().item(), library.palette().amax().item()
        assert (low, high) == pytest.approx((MARGIN, 1 - MARGIN), abs=1e-6)

    def test_what_it_learns_is_pixels_alone(self):
        """The projection is the backbone's: it is in no bundle and in no optimiser."""
        library = RGBLibrary(5, projection())
        assert [*library.state_dict()] == ["pixel_logits"]
        assert [name for name, _ in library.named_parameters()] == ["pixel_logits"]
