"""The loop that keeps the workflow registered, proves that it answers, and says why the service is not ready."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from pgn.errors import NotReady, PgnError
from pgn.gateway.metrics import Metrics
from pgn.gateway.upstream import TorchServe

_READY_PAUSE_S: Final = 5.0
_PAUSE_S: Final = 0.5
_LONGEST_PAUSE_S: Final = 30.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Readiness:
    """What the last look found.

    Attributes:
        is_registered: TorchServe knows the workflow, so a request may be tried.
        reasons: Why the service is not ready; empty when both stages have answered a canary.
    """

    is_registered: bool
    reasons: tuple[str, ...]

    @property
    def is_ready(self) -> bool:
        return not self.reasons


class Reconciler:
    """Looks at TorchServe every few seconds, mends what it can, and remembers what it saw.

    TorchServe's `/ping` proves nothing (it is healthy without the workflow, and with both workers dead), so only an
    answer through both stages counts as ready.

    Args:
        torchserve: The open connection.
        canary: Asks both stages for real; raises PgnError if they do not answer.
        response_timeout_s: After so much silence TorchServe kills a worker.
        metrics: Takes the state of readiness.
    """

    def __init__(
        self,
        torchserve: TorchServe,
        canary: Callable[[], Awaitable[None]],
        *,
        response_timeout_s: float,
        metrics: Metrics,
    ) -> None:
        self._torchserve = torchserve
        self._canary = canary
        self._response_timeout_s = response_timeout_s
        self._metrics = metrics
        self._failed_registrations = 0
        self._alarm = asyncio.Event()
        self.readiness = Readiness(False, ("the gateway has just started",))

    def look_now(self) -> None:
        """Somebody has met a missing workflow: not ready from now on, and looked at without a pause."""
        self._see(False, "a request met a TorchServe that is gone or does not know the workflow")
        self._alarm.set()

    def check_registered(self) -> None:
        """Raise NotReady, with the reasons, while no request can be answered."""
        if not self.readiness.is_registered:
            raise NotReady("the service is not ready: " + "; ".join(self.readiness.reasons))

    async def run(self) -> None:
        """Look, mend, pause, for ever."""
        while True:
            self._alarm.clear()  # before the look: what is met while it goes on, it may have missed
            await self._look_safely()
            await self._pause()

    async def _look_safely(self) -> None:
        try:
            await self.look()
        except Exception as error:  # the loop outlives every fault; a dead loop would leave a stale readiness
            _log.exception("event=look_failed")
            self._see(self.readiness.is_registered, f"the gateway's own fault: {error!r}")

    async def look(self) -> None:
        """Register the workflow if TorchServe does not know it, ask both stages, and set `readiness`."""
        is_registered = False
        try:
            is_registered = await self._torchserve.is_registered()
            if not is_registered:
                await self._register()
                is_registered = True
            await self._canary()
        except PgnError as error:
            self._see(is_registered, error.message)
        else:
            self._see(True)

    async def _register(self) -> None:
        self._see(False, "the workflow is being registered")
        self._failed_registrations += 1
        await self._torchserve.register(response_timeout_s=self._response_timeout_s)
        self._failed_registrations = 0

    def _see(self, is_registered: bool, *reasons: str) -> None:
        seen = Readiness(is_registered, reasons)
        if seen != self.readiness:
            _log.info("event=readiness ready=%s reasons=%r", seen.is_ready, list(reasons))
        self.readiness = seen
        self._metrics.ready.set(seen.is_ready)

    async def _pause(self) -> None:
        if not self.readiness.is_ready:
            # Each refused registration leaves an unpacked archive in TorchServe's temporary folder: ask ever less.
            await asyncio.sleep(min(_PAUSE_S * 2**self._failed_registrations, _LONGEST_PAUSE_S))
            return
        try:
            await asyncio.wait_for(self._alarm.wait(), _READY_PAUSE_S)
        except asyncio.TimeoutError:
            return
