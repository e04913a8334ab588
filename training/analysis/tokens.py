"""How a PGN uses its library: which tokens, how mixed, and on which images a token is at its highest."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Usage:
    """The library in use.

    Attributes:
        shares: (N) mean share of each token in the prompts, in the library's order; sums to 1.
        effective: exp of the shares' entropy: how many tokens would be as many if all were used alike.
        mixed: exp of the mean entropy of a single prompt's mixture: how many tokens a prompt is made of.
        varied: Share of the mixture's values that an image changes, 0..1: mean distance (total variation) of an
            image's mixtures from the mean ones. 0 would be input-independent prompts.
    """

    shares: Tensor
    effective: float
    mixed: float
    varied: float


def library_usage(mixture: Tensor) -> Usage:
    """From the (M, K, N) mixtures of M images."""
    shares = mixture.mean((0, 1))
    distance = 0.5 * (mixture - mixture.mean(0)).abs().sum(-1).mean()
    return Usage(shares, _entropy(shares).exp().item(), _entropy(mixture).mean().exp().item(), distance.item())


def _entropy(shares: Tensor) -> Tensor:
    """In nats, over the last axis."""
    return torch.special.entr(shares).sum(-1)


def token_gallery(mixture: Tensor, tokens: int, images: int) -> list[tuple[int, list[tuple[int, float]]]]:
    """The tokens whose share differs most between images, and for each the images with its highest value.

    Args:
        mixture: (M, K, N).
        tokens: How many tokens at most.
        images: How many images of each at most.

    Returns:
        Tokens' numbers with (row of `mixture`, share of the token in that image's prompts), highest first.
    """
    values = mixture.mean(1)  # (M, N)
    telling = torch.sort(values.std(0, correction=0), descending=True, stable=True).indices[:tokens]
    gallery = []
    for token in telling.tolist():
        best = torch.sort(values[:, token], descending=True, stable=True).indices[:images].tolist()
        gallery.append((token, [(row, values[row, token].item()) for row in best]))
    return gallery
