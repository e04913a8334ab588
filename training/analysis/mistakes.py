"""Where a bundle errs: class by class, and the images that it is wrong about while most sure."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Mistake:
    """A wrong answer: the image's number in its split, its class, the answer, and how sure it was (0..1)."""

    image: int
    label: int
    answer: int
    confidence: float


def class_accuracies(confusion: Tensor) -> list[float | None]:
    """Share of each class that is answered rightly, from (C, C) counts; None for a class without images."""
    counts = confusion.sum(1)
    return [right / of if of else None for right, of in zip(confusion.diag().tolist(), counts.tolist(), strict=True)]


def surest_mistakes(probabilities: Tensor, labels: Tensor, count: int) -> list[Mistake]:
    """At most `count` wrong answers of (M, C) probabilities to (M) labels, the surest first."""
    confidence, answers = probabilities.max(1)
    wrong = (answers != labels).nonzero()[:, 0]
    ranked = wrong[torch.sort(confidence[wrong], descending=True, stable=True).indices][:count]
    return [Mistake(i, int(labels[i]), int(answers[i]), float(confidence[i])) for i in ranked.tolist()]


def most_confused(confusion: Tensor, count: int) -> list[tuple[int, int, int]]:
    """At most `count` (true class, answer, how often) of (C, C) counts, the most frequent first; right ones not."""
    wrong = confusion.clone().fill_diagonal_(0).flatten()
    ranked = torch.sort(wrong, descending=True, stable=True).indices[:count].tolist()
    size = len(confusion)
    return [(i // size, i % size, int(wrong[i])) for i in ranked if wrong[i]]
