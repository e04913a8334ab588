"""How much a key may ask: a token bucket for the rate, a counter for what is in flight."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from types import TracebackType

from pgn.errors import TooManyRequests


class Bucket:
    """A token bucket: `burst` at once, `rate` a second in the long run.

    Exact for every rate, of constant cost and size, and without a timer.

    Args:
        rate: Tokens that come back each second.
        burst: Tokens that it holds, at least one; it starts full.
        clock: Seconds that only grow.
    """

    def __init__(self, rate: float, burst: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate = rate
        self._burst = self._tokens = max(1.0, burst)
        self._clock = clock
        self._seen = clock()

    def take(self) -> float:
        """Take a token; 0 if there was one, else the seconds until there is."""
        now = self._clock()
        self._tokens = min(self._burst, self._tokens + (now - self._seen) * self._rate)
        self._seen = now
        if self._tokens < 1:
            return (1 - self._tokens) / self._rate
        self._tokens -= 1
        return 0.0


class Allowance:
    """What a key may ask in this process. Entering it is asking; inside, the request is in flight.

    Args:
        name: Of the key, for the errors.
        rate: Requests a second, or None.
        burst: Requests at once after a pause; None is one second's.
        concurrency: Requests in flight, or None.
        num_workers: Processes that the limits are divided among; each has at least one request.
    """

    def __init__(
        self, name: str, rate: float | None, burst: int | None, concurrency: int | None, *, num_workers: int = 1
    ) -> None:
        self._name = name
        self._bucket = None if rate is None else Bucket(rate / num_workers, (burst or rate) / num_workers)
        self._concurrency = None if concurrency is None else max(1, concurrency // num_workers)
        self._in_flight = 0

    def __enter__(self) -> None:
        """Raise TooManyRequests, with the seconds to wait, if there is no room."""
        if self._concurrency is not None and self._in_flight >= self._concurrency:
            raise TooManyRequests(
                f"the key {self._name!r} has {self._in_flight} requests in flight, as many as it may",
                hint="wait for one of them to be answered",
            )
        if self._bucket is not None and (wait_s := self._bucket.take()):
            error = TooManyRequests(f"the key {self._name!r} has used up its rate")
            error.retry_after_s = math.ceil(wait_s)
            raise error
        self._in_flight += 1

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._in_flight -= 1
