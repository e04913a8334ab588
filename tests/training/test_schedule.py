"""How the learning rates rise and fall."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from training.config import TrainConfig
from training.schedule import cosine, paper, rate_factor


def test_rates_rise_and_fall() -> None:
    """A linear rise over the warm-up, the peak at its end, then a cosine towards zero."""
    factors = [cosine(step, 100, 0.1) for step in range(100)]
    assert factors[0] == pytest.approx(0.1)
    assert factors[9] == factors[10] == 1.0
    assert factors[10:] == sorted(factors[10:], reverse=True)
    assert factors[-1] < 0.001


@pytest.mark.parametrize("schedule", [cosine, paper])
def test_no_warm_up_starts_at_the_peak(schedule: Callable[[int, int, float], float]) -> None:
    """And nothing is divided by zero, not even in a run of one step."""
    assert schedule(0, 10, 0.0) == schedule(0, 1, 0.0) == 1.0


def test_the_papers_rates_stay_for_a_whole_epoch(make_config: Callable[..., TrainConfig]) -> None:
    """Two steps an epoch, ten epochs, the rise over two of them."""
    config = make_config(schedule="paper", epochs=10, warmup=0.2)
    factors = [rate_factor(config, step, 2) for step in range(20)]
    assert factors[:6] == [0.5, 0.5, 0.5, 0.5, 1.0, 1.0]
    assert factors[::2] == factors[1::2]


@pytest.mark.shared
@pytest.mark.parametrize("epochs", [100, 500, 1000])
def test_the_papers_schedule_is_the_authors(shared: Path, epochs: int) -> None:
    """Rates in every epoch by their own scheduler: peak 0.1, warm-up of 50 epochs."""
    theirs = np.load(shared / "reference/prompts.npz")[f"schedule/lr0.1_epochs{epochs}_warmup50"]
    ours = [0.1 * paper(epoch, epochs, 50 / epochs) for epoch in range(epochs)]
    assert np.abs(theirs - ours).max() < 1e-9
