"""The counted door and the body limit."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import Request

from pgn.errors import Overloaded, RequestTooLarge, SetupError
from pgn.gateway.limits import InFlight, in_flight_door, read_body
from pgn.settings import Settings, TorchServeConfig


def request_of(chunks: list[bytes], headers: list[tuple[bytes, bytes]]) -> tuple[Request, list[bytes]]:
    """A request whose body comes in these chunks, and the list of those not yet asked for."""
    left = list(chunks)

    async def receive() -> dict[str, object]:
        body = left.pop(0) if left else b""
        return {"type": "http.request", "body": body, "more_body": bool(left)}

    return Request({"type": "http", "headers": headers}, receive), left


@given(st.lists(st.binary(max_size=50), min_size=1, max_size=10), st.integers(1, 300))
def test_a_body_is_whole_or_refused(chunks: list[bytes], limit: int) -> None:
    """The limit holds to the byte, however the body is cut."""
    request, _ = request_of(chunks, [])
    whole = b"".join(chunks)
    if len(whole) <= limit:
        assert asyncio.run(read_body(request, limit)) == whole
    else:
        with pytest.raises(RequestTooLarge):
            asyncio.run(read_body(request, limit))


def test_reading_stops_at_the_limit() -> None:
    """A body without end costs no more memory than the limit."""
    request, left = request_of([b"x" * 10] * 100, [])
    with pytest.raises(RequestTooLarge):
        asyncio.run(read_body(request, 25))
    assert len(left) == 97


def test_an_announced_size_over_the_limit_is_refused_unread() -> None:
    """Content-Length is enough to refuse."""
    request, left = request_of([b"x"], [(b"content-length", b"26")])
    with pytest.raises(RequestTooLarge, match="26 bytes"):
        asyncio.run(read_body(request, 25))
    assert len(left) == 1


@pytest.mark.parametrize("length", [b"", b"-5", b"many", "²".encode("latin-1"), b"1"])
def test_a_wrong_announcement_is_not_believed(length: bytes) -> None:
    """What arrives is counted, whatever was announced."""
    request, _ = request_of([b"x" * 26], [(b"content-length", length)])
    with pytest.raises(RequestTooLarge):
        asyncio.run(read_body(request, 25))


def test_the_door_lets_in_as_many_as_its_limit() -> None:
    """One more is refused, and leaving makes room, also by an error."""
    door = InFlight(2)
    with ExitStack() as inside:
        inside.enter_context(door)
        with pytest.raises(ValueError, match="inside"), door:
            raise ValueError("inside")
        inside.enter_context(door)
        with pytest.raises(Overloaded), door:
            pass
        assert door.count == 2
    assert door.count == 0


def door(max_in_flight: int, workers: int = 1, job_queue_size: int = 100) -> InFlight:
    torchserve = TorchServeConfig(Path("config.properties"), "", "", "", (), (), job_queue_size)
    return in_flight_door(Settings(max_in_flight=max_in_flight, workers=workers), torchserve)


def test_the_limit_stays_below_the_queue() -> None:
    """Equal would leave no place for a canary."""
    assert door(99).limit == 99
    with pytest.raises(SetupError, match="PGN_MAX_IN_FLIGHT"):
        door(100)


@pytest.mark.parametrize(("workers", "limit"), [(1, 64), (2, 32), (3, 21), (64, 1)])
def test_workers_share_the_limit(workers: int, limit: int) -> None:
    """All of them together stay within it."""
    assert door(64, workers).limit == limit


def test_a_worker_without_a_share_is_refused() -> None:
    """It would answer every request that it gets with 503."""
    with pytest.raises(SetupError, match="3 workers"):
        door(2, workers=3)
