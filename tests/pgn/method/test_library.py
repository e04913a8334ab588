"""Prompts are convex mixtures of library tokens."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pgn.method.library import TokenLibrary


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
