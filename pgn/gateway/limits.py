"""What the gateway refuses before it works: more requests than it accepts at once, bodies over the limit."""

from __future__ import annotations

from types import TracebackType

from starlette.requests import Request

from pgn.errors import Overloaded, RequestTooLarge, SetupError
from pgn.settings import Settings, TorchServeConfig


class InFlight:
    """A counted door: entering while `limit` requests are inside raises Overloaded.

    All of the gateway runs in one thread, so a plain number is enough.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.count = 0

    def __enter__(self) -> None:
        if self.count >= self.limit:
            raise Overloaded(f"{self.count} requests are in flight, as many as are accepted at once")
        self.count += 1

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.count -= 1


def in_flight_door(settings: Settings, torchserve: TorchServeConfig) -> InFlight:
    """The door of this process: its share of `max_in_flight`, all of which TorchServe's queue can hold.

    Raises:
        SetupError: The limit is not below the size of the queue that each stage has, or some worker would have none.
    """
    limit, job_queue_size = settings.max_in_flight, torchserve.job_queue_size
    if limit < settings.workers:
        raise SetupError(
            f"max_in_flight is {limit}, which leaves nothing for some of the {settings.workers} workers",
            hint="raise PGN_MAX_IN_FLIGHT or lower PGN_WORKERS",
        )
    if limit >= job_queue_size:
        raise SetupError(
            f"max_in_flight is {limit}, which is not below TorchServe's job_queue_size of {job_queue_size}",
            hint="lower PGN_MAX_IN_FLIGHT or raise job_queue_size in config.properties",
        )
    return InFlight(limit // settings.workers)


async def read_body(request: Request, limit: int) -> bytes:
    """The whole body; what is over the limit is never held.

    Raises:
        RequestTooLarge: Content-Length, or what has come so far without one, is over `limit`.
    """
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > limit:
        raise RequestTooLarge(f"the body has {int(announced):,} bytes; the limit is {limit:,}")
    chunks: list[bytes] = []
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > limit:
            raise RequestTooLarge(f"the body has more than {limit:,} bytes, which is the limit")
        chunks.append(chunk)
    return b"".join(chunks)
