"""Is a bundle right as often as it says it is: the reliability diagram and its expected calibration error."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

BINS = 10


@dataclass(frozen=True)
class Reliability:
    """Answers sorted into bins of equal width by their confidence; index 0 is the least sure.

    Attributes:
        confidence: Mean confidence in each bin, 0 where it is empty.
        accuracy: Share of right answers in each bin, 0 where it is empty.
        share: Share of all answers that fall into each bin.
        error: Expected calibration error, 0..1: by how much confidence and accuracy differ on average.

    Source: Guo et al., "On Calibration of Modern Neural Networks", ICML 2017.
    """

    confidence: tuple[float, ...]
    accuracy: tuple[float, ...]
    share: tuple[float, ...]
    error: float


def reliability(probabilities: Tensor, labels: Tensor, *, bins: int = BINS) -> Reliability:
    """Compare (M, C) probabilities with (M) labels."""
    confidence, answers = probabilities.double().max(1)
    right = (answers == labels).double()
    numbers = (confidence * bins).long().clamp(max=bins - 1)  # confidence 1 belongs to the last bin
    counts = torch.bincount(numbers, minlength=bins)
    filled = counts.clamp(min=1)
    sure = torch.bincount(numbers, confidence, minlength=bins) / filled
    hits = torch.bincount(numbers, right, minlength=bins) / filled
    share = counts / len(labels)
    error = (share * (sure - hits).abs()).sum().item()
    return Reliability(tuple(sure.tolist()), tuple(hits.tolist()), tuple(share.tolist()), error)
