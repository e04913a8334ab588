"""The linear probe: logistic regression on the frozen features, the yardstick, and where a trained head starts."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from torch import Tensor
from typing_extensions import Self

from pgn.method.head import Head, linear_head
from training.data.splitting import draw_share

ABSENT = 10.0  # logits below the mean of the others: never first, and not so far that it upsets a temperature
MOST_IMAGES = 100_000  # ImageNet's 1.3 million, in float64 and for every strength, would take longer than the training
FITTED_AS = "probe 1"  # of a probe that is kept: to be counted up when the same images would give another
STRENGTHS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)  # scikit-learn's C, inverse regularisation


@dataclass(frozen=True)
class LinearProbe:
    """A fitted probe.

    Attributes:
        mean: (features) of the training features.
        std: (features) of the training features; 1 where they do not vary.
        weight: (C, features) for standardised features.
        bias: (C) for standardised features.
        strength: C of scikit-learn, chosen on validation.
        images: Training images that it was fitted on.
    """

    mean: Tensor
    std: Tensor
    weight: Tensor
    bias: Tensor
    strength: float
    images: int

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor]) -> Self:
        """The probe that `to_tensors` wrote down."""
        scalars = {"strength": float(tensors["strength"]), "images": int(tensors["images"])}
        return cls(**{**tensors, **scalars})  # type: ignore[arg-type]  # by name, as to_tensors gives them

    def to_tensors(self) -> dict[str, Tensor]:
        """All of it as tensors, to be kept in a file."""
        scalars = {"strength": torch.tensor(self.strength, dtype=torch.float64), "images": torch.tensor(self.images)}
        return {**vars(self), **scalars}

    def head(self) -> Head:
        """The probe as a plain linear head on raw features: the standardisation is folded in."""
        return fold(self.weight, self.bias, self.mean, self.std)


def fold(weight: Tensor, bias: Tensor, mean: Tensor, std: Tensor) -> Head:
    """The frozen head W' z + b' that equals `weight` ((z - mean) / std) + `bias`; shapes as in LinearProbe."""
    scaled = weight.double() / std.double()
    head = linear_head(scaled.float(), (bias.double() - scaled @ mean.double()).float())
    return head.eval().requires_grad_(False)


def fit_probe(train: Tensor, train_labels: Tensor, val: Tensor, val_labels: Tensor, *, num_classes: int) -> LinearProbe:
    """Fit on train; of `STRENGTHS` the one that is best on validation, the strongest regularisation among equals.

    Of more than `MOST_IMAGES` training images so many are taken, of every class the same share, always the same. A
    class without training images gets a row that never wins.

    Args:
        train: (M, features) float32.
        train_labels: (M) int64; at least two classes occur.
        val: (V, features) float32.
        val_labels: (V) int64.
        num_classes: C.
    """
    if len(train) > MOST_IMAGES:
        chosen = draw_share(train_labels.tolist(), MOST_IMAGES / len(train))
        train, train_labels = train[chosen], train_labels[chosen]
    mean, std = train.mean(0), train.std(0, correction=0)
    std = torch.where(std > 0, std, 1.0)
    rows, targets = ((train - mean) / std).numpy().astype(np.float64), train_labels.numpy()
    best: tuple[float, LinearProbe] | None = None
    for strength in STRENGTHS:
        probe = LinearProbe(mean, std, *_fit(rows, targets, strength, num_classes), strength, len(rows))
        accuracy = (probe.head()(val).argmax(1) == val_labels).double().mean().item()
        if best is None or accuracy > best[0]:
            best = accuracy, probe
    assert best is not None
    return best[1]


def _fit(rows: np.ndarray, targets: np.ndarray, strength: float, num_classes: int) -> tuple[Tensor, Tensor]:
    """(C, features) weight and (C) bias."""
    with warnings.catch_warnings():  # weakly regularised fits may stop early; validation judges them as they are
        warnings.simplefilter("ignore", ConvergenceWarning)
        fitted = LogisticRegression(C=strength, max_iter=300).fit(rows, targets)
    weight, bias = torch.from_numpy(fitted.coef_).float(), torch.from_numpy(fitted.intercept_).float()
    if len(weight) == 1:  # scikit-learn gives one row for two classes: the score of the second
        weight, bias = torch.cat([-weight / 2, weight / 2]), torch.cat([-bias / 2, bias / 2])
    # The mean of the rows is 0 up to rounding, as the regularisation leaves no common part. What scores below the mean
    # scores below the best, whatever the features are.
    all_weights, all_biases = weight.mean(0).repeat(num_classes, 1), (bias.mean() - ABSENT).repeat(num_classes)
    present = torch.from_numpy(fitted.classes_)
    all_weights[present], all_biases[present] = weight, bias
    return all_weights, all_biases
