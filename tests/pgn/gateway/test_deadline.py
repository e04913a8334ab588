"""The deadline that travels with a request."""

from __future__ import annotations

import pytest

from pgn.gateway.deadline import Deadline


def test_what_is_left_shrinks_to_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step that starts late gets less time, and never a negative one."""
    now = 100.0
    monkeypatch.setattr("pgn.gateway.deadline.time.monotonic", lambda: now)
    deadline = Deadline(10)
    assert deadline.left_s() == 10
    now = 104.0
    assert deadline.left_s() == 6
    now = 200.0
    assert deadline.left_s() == 0
