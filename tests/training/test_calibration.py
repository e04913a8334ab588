"""Temperature and threshold from validation."""

from __future__ import annotations

import pytest
import torch

from training.calibration import fit_temperature, unknown_threshold


def test_the_temperature_of_overconfident_logits_is_found() -> None:
    """Labels drawn from softmax(z), logits shown as 4 z: the best temperature is 4."""
    rng = torch.Generator().manual_seed(0)
    honest = torch.randn(4000, 5, generator=rng)
    labels = torch.multinomial(honest.softmax(1), 1, generator=rng).flatten()
    assert fit_temperature(4 * honest, labels) == pytest.approx(4, rel=0.08)


def test_all_answers_right_does_not_make_them_certain() -> None:
    """100 of 100 on validation is not 100 %: the mean confidence stays near 101/102."""
    labels = torch.arange(100) % 4
    logits = torch.nn.functional.one_hot(labels, 4).float() * 3
    confidence = (logits / fit_temperature(logits, labels)).softmax(1).max(1).values
    assert confidence.mean().item() == pytest.approx(101 / 102, abs=0.005)


def test_one_right_answer_in_a_hundred_lies_below_the_threshold() -> None:
    """Wrong answers have no say in it."""
    logits = torch.cat([torch.linspace(1, 5, 1000)[:, None], torch.zeros(1000, 1)], 1)
    logits = torch.cat([logits, torch.tensor([[9.0, 0.0]])])
    labels = torch.tensor([0] * 1000 + [1])
    threshold = unknown_threshold(logits, labels, 1.0)
    assert int((logits[:1000].softmax(1)[:, 0] < threshold).sum()) == 10


def test_without_a_right_answer_there_is_no_threshold() -> None:
    """Nothing to take a share of."""
    assert unknown_threshold(torch.tensor([[1.0, 0.0]]), torch.tensor([1]), 1.0) is None
