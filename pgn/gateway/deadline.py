"""A deadline that travels with a request, so that every step knows what time is left."""

from __future__ import annotations

import time


class Deadline:
    """The moment by which a request is answered or refused."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    def left_s(self) -> float:
        """Seconds left; 0 once it has passed."""
        return max(0.0, self._end - time.monotonic())
