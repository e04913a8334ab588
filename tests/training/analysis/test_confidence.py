"""As right as it is sure, or not."""

from __future__ import annotations

import pytest
import torch

from training.analysis.confidence import reliability


def test_answers_that_are_right_as_often_as_they_say_have_no_error() -> None:
    """Ten answers at 0.8, eight of them right."""
    probabilities = torch.tensor([[0.8, 0.2]] * 10)
    labels = torch.tensor([0] * 8 + [1] * 2)
    found = reliability(probabilities, labels)
    assert found.error == pytest.approx(0, abs=1e-6)
    assert found.share[8] == 1
    assert found.accuracy[8] == pytest.approx(0.8)


def test_the_error_is_the_mean_distance_over_the_answers() -> None:
    """Half of them sure (0.95) and always wrong, half unsure (0.55) and always right."""
    probabilities = torch.tensor([[0.95, 0.05], [0.55, 0.45]])
    assert reliability(probabilities, torch.tensor([1, 0])).error == pytest.approx((0.95 + 0.45) / 2, abs=1e-6)


def test_full_confidence_is_in_the_last_bin() -> None:
    """Not one beyond it."""
    found = reliability(torch.tensor([[1.0, 0.0]]), torch.tensor([0]))
    assert found.share == (*[0.0] * 9, 1.0)
