"""The verdict on TorchServe: what is wrong, for how long, and whether only a restart helps.

Nobody is asked here: the reconciler looks and says what it saw. docs/operations.md tells operators what to do.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum

Clock = Callable[[], float]


class Code(str, Enum):
    """What can be wrong; stable names, for readiness, metrics and alerts."""

    STARTING = "gateway.starting"
    BROKEN = "gateway.fault"
    UNREACHABLE = "torchserve.unreachable"
    HUNG = "torchserve.hung"
    REGISTERING = "torchserve.registering"
    NO_WORKFLOW = "torchserve.no_workflow"
    THREADS = "torchserve.threads"
    MEMORY = "torchserve.memory"
    NO_WORKER = "stage.no_worker"
    STUCK = "stage.stuck"
    FAILED = "stage.failed"
    WRONG_DEVICE = "stage.wrong_device"
    NO_DATASETS = "bank.empty"


@dataclass(frozen=True)
class Fault:
    """Something that is wrong now.

    Attributes:
        code: What kind of fault.
        text: What was seen, for a person.
        needs_restart: If it lasts, only a restart of TorchServe helps.
        stops_requests: The service is not ready; otherwise it answers on, until a restart is due.
    """

    code: Code
    text: str
    needs_restart: bool = False
    stops_requests: bool = True

    def __str__(self) -> str:
        return f"{self.code.value}: {self.text}"


class Verdict:
    """The present faults, and since when each has lasted without a break.

    Args:
        patience_s: So long a fault has to last before TorchServe is restarted for it.
        clock: Seconds that only grow.
    """

    def __init__(self, patience_s: float, clock: Clock = time.monotonic) -> None:
        self._patience_s = patience_s
        self._clock = clock
        self._since: dict[Code, float] = {}
        self.faults: tuple[Fault, ...] = (Fault(Code.STARTING, "the gateway has just started"),)

    def update(self, faults: Sequence[Fault]) -> None:
        """These are the faults now; all others are over."""
        now = self._clock()
        kinds = {_kind(fault) for fault in faults}
        self._since = {kind: self._since.get(kind, now) for kind in kinds}
        self.faults = tuple(faults)

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why the service is not ready."""
        return tuple(str(fault) for fault in self.faults if fault.stops_requests or self._is_due(fault))

    @property
    def restart_reasons(self) -> tuple[str, ...]:
        """Why TorchServe has to be restarted; empty while it may yet recover."""
        return tuple(str(fault) for fault in self.faults if self._is_due(fault))

    def _is_due(self, fault: Fault) -> bool:
        lasted_s = self._clock() - self._since.get(_kind(fault), self._clock())
        return fault.needs_restart and lasted_s >= self._patience_s


def _kind(fault: Fault) -> Code:
    # A worker that dies again and again is now dead, now silent; that is one fault.
    return Code.STUCK if fault.code is Code.NO_WORKER else fault.code


class Threads:
    """Tells a leak of threads from pools that come and go with the load.

    A leak is a lowest count, over a window of time, that is far above the first count and above the last window's
    lowest: what the load starts and ends shows in neither.

    Args:
        limit: Threads above the first count that are no leak yet.
        window_s: Length of a window.
        clock: Seconds that only grow.
    """

    def __init__(self, limit: int, window_s: float, clock: Clock = time.monotonic) -> None:
        self._limit = limit
        self._window_s = window_s
        self._clock = clock
        self.forget()

    def forget(self) -> None:
        """Another process is counted from now on."""
        self.first: int | None = None
        self._before: int | None = None
        self._leaks = False

    def leaks(self, count: int) -> bool:
        """Whether it leaks, as far as was seen until this count."""
        now = self._clock()
        if self.first is None:
            self.first = self._lowest = count
            self._began = now
        self._lowest = min(self._lowest, count)
        if now - self._began >= self._window_s:
            grows = self._before is not None and self._lowest > self._before
            self._leaks = grows and self._lowest > self.first + self._limit
            self._before, self._lowest, self._began = self._lowest, count, now
        return self._leaks
