"""Threads over many items."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from training.data.parallel import WAVE, in_waves


def test_results_come_in_the_order_of_the_items() -> None:
    """Labels are paired with them by position, also across waves."""
    items = range(2 * WAVE + 1)
    with ThreadPoolExecutor(4) as threads:
        assert list(in_waves(threads, str, items)) == [str(item) for item in items]


def test_items_are_taken_a_wave_at_a_time() -> None:
    """A million images must not be queued up before the first is looked at."""
    items = iter(range(10 * WAVE))
    with ThreadPoolExecutor(4) as threads:
        assert next(in_waves(threads, str, items)) == "0"
    assert next(items) == WAVE
