"""What validation says of a classifier's confidence: a temperature, and below which confidence an image is unknown."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from scipy.optimize import minimize_scalar
from torch import Tensor

UNKNOWN_PERCENTILE = 1.0  # of the right answers' confidences: so many right answers in a hundred would be flagged


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """The T in 0.05..20 that minimises the cross-entropy of (M, C) `logits` / T with (M) `labels`.

    The labels are smoothed by 1 / (M + 2), as if one more image had been answered wrong: with every validation image
    right the plain minimum would be at T = 0, where every answer is certain.
    Source: Platt, "Probabilistic Outputs for Support Vector Machines", 1999.
    """
    smoothing = 1 / (len(labels) + 2)

    def loss(log_temperature: float) -> float:
        scaled = logits.double() / math.exp(log_temperature)
        return F.cross_entropy(scaled, labels, label_smoothing=smoothing).item()

    found = minimize_scalar(loss, bounds=(math.log(0.05), math.log(20.0)), method="bounded")
    return math.exp(found.x)


def unknown_threshold(logits: Tensor, labels: Tensor, temperature: float) -> float | None:
    """The confidence that all but `UNKNOWN_PERCENTILE` % of the right answers reach; None if no answer is right."""
    confidence, answers = (logits / temperature).softmax(1).max(1)
    right = confidence[answers == labels]
    return torch.quantile(right, UNKNOWN_PERCENTILE / 100).item() if len(right) else None
