"""A running training as Prometheus sees it."""

from __future__ import annotations

import time
import urllib.request
from urllib.error import URLError

import pytest
from prometheus_client.parser import text_string_to_metric_families
from torch import nn

from pgn.errors import PortTaken
from training.metrics import TrainingMetrics
from training.run import Progress
from training.scores import Scores


def _scrape(port: int) -> dict[tuple[str, ...], float]:
    """Value by name and labels."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        families = text_string_to_metric_families(answer.read().decode())
        return {(s.name, *s.labels.values()): s.value for family in families for s in family.samples}


def test_a_step_and_an_epoch_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """All that an alert on a stalled or diverging run needs."""
    before, progress = time.time(), Progress()
    with TrainingMetrics(0, steps=8) as metrics:
        progress.add_step(loss_sum=50.0, hits=5, seen=20, seconds=0.5)
        metrics.step(progress, [0.1, 0.02])
        found = _scrape(metrics.port)
        progress.close_epoch(Scores(images=4, top1=0.5, top5=1, loss=1.5, balanced=0.25), nn.Linear(1, 1), seconds=1)
        metrics.epoch(progress)
        later = _scrape(metrics.port)
    assert found["pgn_training_loss", "train"] == 2.5
    assert found["pgn_training_accuracy", "train"] == 0.25
    assert found["pgn_training_images_per_second",] == 40
    assert (found["pgn_training_learning_rate", "0"], found["pgn_training_learning_rate", "1"]) == (0.1, 0.02)
    assert (found["pgn_training_step",], found["pgn_training_planned_steps",]) == (1, 8)
    assert found["pgn_training_last_progress_timestamp_seconds",] >= before
    assert (later["pgn_training_loss", "val"], later["pgn_training_accuracy", "val"]) == (1.5, 0.25)
    assert later["pgn_training_epoch",] == 1


def test_a_run_that_has_just_begun_has_not_stalled() -> None:
    """The first step can take minutes, and an alert compares the time of the last one with now."""
    before = time.time()
    with TrainingMetrics(0, steps=8) as metrics:
        assert _scrape(metrics.port)["pgn_training_last_progress_timestamp_seconds",] >= before


def test_a_taken_port_is_named() -> None:
    """Before the first step."""
    with TrainingMetrics(0, steps=1) as metrics, pytest.raises(PortTaken, match=f"on port {metrics.port}"):
        TrainingMetrics(metrics.port, steps=1)


def test_the_port_is_free_again_after_the_run() -> None:
    """A grid trains one cell after the other."""
    with TrainingMetrics(0, steps=1) as metrics:
        pass
    with pytest.raises(URLError):
        _scrape(metrics.port)
    with TrainingMetrics(metrics.port, steps=1):
        assert _scrape(metrics.port)
