"""Prompt drift: how far the tokens that a data set's images ask for have moved from those of its training images.

A generator writes every prompt as a mixture over its library. Averaged over images and prompts, the mixture is the
token usage, a distribution over N tokens; a bundle carries that of its training images. Recent images have one, too,
and the distance between both needs no label and no second pass.

The distance is Jensen-Shannon's (the root of the divergence, base 2): 0 for equal distributions, 1 for those that share
no token, symmetric, a metric, and finite where a token is never used.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pgn.stages.bank import Held, Key

WINDOW: Final = 256
"""Images: one that came so many images ago counts 1 / e as much as the newest."""


@dataclass(frozen=True)
class Drift:
    """How far a version's token usage has moved.

    Attributes:
        distance: Jensen-Shannon distance, 0..1, between recent images and the training images.
        noise: The distance to expect of as many independent images like the training images: a mean over few images
            differs from that over many. A drift is worth a look where it is well above, say twice.
        images: How many images it rests on, as many equally weighted ones would; at most 2 x WINDOW.
    """

    distance: float
    noise: float
    images: float


class _Usage:
    """Running mean and variance of one version's token usage over recent images, in 2 N + 2 numbers.

    Args:
        profile: (N), that of the training images.
    """

    def __init__(self, profile: NDArray[Any]) -> None:
        self._profile = profile
        self._weight = 0.0
        self._weight_of_squares = 0.0
        self._sum = np.zeros(len(profile))
        self._sum_of_squares = np.zeros(len(profile))

    def add(self, usages: NDArray[Any]) -> None:
        """(B, N) usages, one an image, oldest first."""
        forget = 1 - 1 / WINDOW
        weights = forget ** np.arange(len(usages) - 1, -1, -1.0)
        keep = forget ** len(usages)
        self._weight = keep * self._weight + weights.sum()
        self._weight_of_squares = keep**2 * self._weight_of_squares + (weights**2).sum()
        self._sum = keep * self._sum + weights @ usages
        self._sum_of_squares = keep * self._sum_of_squares + weights @ usages.astype(np.float64) ** 2

    def drift(self) -> Drift:
        """The distance from the profile; at least one image has been added."""
        images = float(self._weight**2 / self._weight_of_squares)
        mean = self._sum / self._weight
        variance = np.maximum(self._sum_of_squares / self._weight - mean**2, 0)
        return Drift(distance=jensen_shannon(mean, self._profile), noise=_noise(variance, mean, images), images=images)


class DriftMonitor:
    """Token usage of every version that has a library; memory is bounded by the bank."""

    def __init__(self) -> None:
        self._usages: dict[Key, _Usage] = {}

    def see(self, held: Held[Any], usages: NDArray[Any]) -> None:
        """Note the (B, N) token usages of a version's newest images; a version without a library has none."""
        usages = usages[np.isfinite(usages).all(axis=1)]  # one that is not would stay in the mean for ever
        if held.profile is not None and len(usages):
            self._usages.setdefault((held.manifest.dataset, held.digest), _Usage(held.profile)).add(usages)

    def keep(self, versions: Iterable[Key]) -> None:
        """Forget every version but these."""
        for key in self._usages.keys() - set(versions):
            del self._usages[key]

    def drift(self) -> Mapping[Key, Drift]:
        """By data set and digest; versions that nobody has asked are left out."""
        return {key: usage.drift() for key, usage in list(self._usages.items())}


def jensen_shannon(p: NDArray[Any], q: NDArray[Any]) -> float:
    """Jensen-Shannon distance, base 2, of two (N) distributions; both are normalised first."""
    p, q = (np.asarray(each, np.float64) / np.sum(each, dtype=np.float64) for each in (p, q))
    middle = (p + q) / 2
    return float(np.sqrt(max((_relative_entropy(p, middle) + _relative_entropy(q, middle)) / 2, 0.0)))


def _relative_entropy(p: NDArray[np.float64], q: NDArray[np.float64]) -> float:
    used = (p > 0) & (q > 0)  # q holds half of p, which may round to 0
    return float((p[used] * np.log2(p[used] / q[used])).sum())


def _noise(variance: NDArray[np.float64], mean: NDArray[np.float64], images: float) -> float:
    # For nearby distributions the divergence is a chi-square: sum (p - q)^2 / p over 8 ln 2. The mean of n images has
    # 1 / n of an image's variance, here that with Bessel's correction: n - 1. One image alone says nothing of it.
    if images < 2:
        return 1.0
    used = mean > 0
    spread = float((variance[used] / mean[used]).sum())
    return min(1.0, float(np.sqrt(spread / (8 * np.log(2) * (images - 1)))))
