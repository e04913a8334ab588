"""What a key may ask: the rate, and what is in flight."""

from __future__ import annotations

from contextlib import ExitStack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgn.errors import TooManyRequests
from pgn.gateway.rates import Allowance, Bucket


class Clock:
    """Time that passes when the test says so."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_burst_is_let_through_and_then_the_rate() -> None:
    """A caller may be uneven, but not beyond the rate in the long run."""
    clock = Clock()
    bucket = Bucket(rate=2, burst=3, clock=clock)
    assert [bucket.take() for _ in range(4)] == [0, 0, 0, 0.5]
    clock.now = 0.5
    assert [bucket.take() for _ in range(2)] == [0, 0.5]


@given(st.floats(0.1, 100), st.integers(1, 20), st.lists(st.floats(0, 3), min_size=1, max_size=100))
def test_no_more_is_let_through_than_rate_and_burst_allow(rate: float, burst: int, pauses: list[float]) -> None:
    """The promise to the operator, however the caller spaces its requests."""
    clock = Clock()
    bucket = Bucket(rate, burst, clock)
    passed = 0
    for pause in pauses:
        clock.now += pause
        passed += bucket.take() == 0
        assert passed <= burst + rate * clock.now + 1e-6


@given(st.floats(0.1, 100), st.integers(1, 20))
def test_the_time_it_names_is_enough_to_wait(rate: float, burst: int) -> None:
    """Retry-After is a promise to the client."""
    clock = Clock()
    bucket = Bucket(rate, burst, clock)
    while not (wait_s := bucket.take()):
        pass
    clock.now += wait_s * (1 + 1e-9)
    assert bucket.take() == 0


def test_an_exhausted_rate_says_when_to_come_back() -> None:
    """In whole seconds, as HTTP has it, and never 0."""
    allowance = Allowance("team-a", rate=0.1, burst=1, concurrency=None)
    with allowance:
        pass
    with pytest.raises(TooManyRequests, match="'team-a' has used up its rate") as raised, allowance:
        pass
    assert raised.value.retry_after_s == 10


def test_only_so_many_requests_are_in_flight() -> None:
    """Leaving makes room, also by an error, and a refused one does not count."""
    allowance = Allowance("team-a", rate=None, burst=None, concurrency=2)
    with ExitStack() as inside:
        inside.enter_context(allowance)
        with pytest.raises(ValueError, match="inside"), allowance:
            raise ValueError("inside")
        inside.enter_context(allowance)
        for _ in range(2):
            with pytest.raises(TooManyRequests, match="2 requests in flight"), allowance:
                pass
    with allowance:
        pass


def test_no_limits_are_no_limits() -> None:
    """A key without them is limited by the gateway's own alone."""
    with ExitStack() as inside:
        for _ in range(1000):
            inside.enter_context(Allowance("team-a", None, None, None))


@pytest.mark.parametrize(("num_workers", "passed"), [(1, 8), (4, 2), (100, 1)])
def test_workers_share_a_keys_limits(num_workers: int, passed: int) -> None:
    """Together they let through what the key may; each at least one, or some connection could never be served."""
    by_rate = Allowance("team-a", rate=0.001, burst=8, concurrency=None, num_workers=num_workers)
    by_count = Allowance("team-a", rate=None, burst=None, concurrency=8, num_workers=num_workers)
    for allowance in (by_rate, by_count):
        with ExitStack() as inside:
            for _ in range(passed):
                inside.enter_context(allowance)
            with pytest.raises(TooManyRequests):
                inside.enter_context(allowance)
