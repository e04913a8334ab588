"""The loop that keeps the workflow registered, proves that it answers, and says what is wrong with TorchServe."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from pgn.errors import DeadlineExceeded, NotReady, PgnError, ServiceError
from pgn.gateway.deadline import Deadline
from pgn.gateway.metrics import Metrics
from pgn.gateway.upstream import STAGES, Stage, TorchServe, TorchServeGone
from pgn.gateway.verdict import Code, Fault, Threads, Verdict
from pgn.message import StageState, Target
from pgn.settings import Settings

_READY_PAUSE_S: Final = 5.0
_PAUSE_S: Final = 0.5
_LONGEST_PAUSE_S: Final = 30.0
_QUICK_ANSWER_S: Final = 1.0
_STATE_TIMEOUT_S: Final = 5.0
_MANY_REGISTRATIONS: Final = 5
# The JVM starts some pools, of sizes that follow the cores, only when they are needed.
_THREAD_LIMIT: Final = 64 + 8 * (os.cpu_count() or 1)

_REGISTERING: Final = Fault(Code.REGISTERING, "the workflow is being registered")
_NOTHING: Final = "no data set can be served: the index has none, or none of its bundles is held by both stages"

_log = logging.getLogger(__name__)

Canary = Callable[[Target, Deadline], Awaitable[None]]


@dataclass(frozen=True)
class Readiness:
    """What the last look found.

    Attributes:
        is_registered: TorchServe knows the workflow, so a request may be tried.
        reasons: Why the service is not ready, each a code and a text; empty when both stages have answered a canary.
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
        any_target: Something that can be asked, if there is anything.
        settings: The deadline, and what TorchServe is restarted for.
        metrics: Takes readiness, faults, threads, memory and restarts.

    Attributes:
        verdict: What is wrong, and whether only a restart of TorchServe helps.
    """

    def __init__(
        self,
        torchserve: TorchServe,
        canary: Canary,
        any_target: Callable[[], Awaitable[Target | None]],
        *,
        settings: Settings,
        metrics: Metrics,
    ) -> None:
        self._torchserve = torchserve
        self._canary = canary
        self._any_target = any_target
        self._settings = settings
        self._metrics = metrics
        self._threads = Threads(_THREAD_LIMIT, settings.restart_after_s / 2)
        self._was_registered = False
        self._refusals = 0
        self._register_at = 0.0
        self._alarm = asyncio.Event()
        self._is_registered = False
        self.verdict = Verdict(settings.restart_after_s)

    @property
    def readiness(self) -> Readiness:
        """Whether predictions are answered now, and if not, why."""
        return Readiness(self._is_registered, self.verdict.reasons)

    def look_now(self) -> None:
        """Somebody has met a missing workflow: not ready from now on, and looked at soon."""
        self._see(
            False, Fault(Code.UNREACHABLE, "a request met a TorchServe that is gone or does not know the workflow")
        )
        self._alarm.set()

    def look_soon(self) -> None:
        """Somebody had to be tried again: perhaps a worker died, so it is looked at soon."""
        self._alarm.set()

    def check_registered(self) -> None:
        """Raise NotReady, with the reasons, while no request can be answered."""
        if not self._is_registered:
            raise NotReady("the service is not ready: " + "; ".join(self.verdict.reasons))

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
            _log.exception("look_failed")
            self._see(self._is_registered, Fault(Code.BROKEN, f"the gateway's own fault: {error!r}"))

    async def look(self) -> None:
        """Register the workflow if TorchServe does not know it, ask both stages, and judge what was seen."""
        began = time.monotonic()
        try:
            is_registered = await self._torchserve.is_registered()
        except NotReady as error:
            self._metrics.torchserve_up.set(0)
            self._threads.forget()
            self._refusals = 0
            self._see(False, Fault(Code.UNREACHABLE, error.message, needs_restart=True))
            return
        except DeadlineExceeded as error:
            self._judge_silent_management(error, began)
            return
        self._metrics.torchserve_up.set(1)
        if is_registered:
            self._was_registered = True
            self._refusals = 0
        elif not await self._register():
            return
        self._see(True, *await self._ask_stages())

    def _answers_since(self, moment: float, stage: Stage) -> bool:
        return self._torchserve.answered_at(stage) >= moment

    def _judge_silent_management(self, error: DeadlineExceeded, began: float) -> None:
        if self._torchserve.is_being_registered():
            self._see(False, _REGISTERING)
            return
        self._metrics.torchserve_up.set(0)
        # While its stages answer, requests may still be tried.
        answers = self._is_registered and any(self._answers_since(began, stage) for stage in STAGES)
        self._see(answers, Fault(Code.HUNG, error.message, needs_restart=not answers))

    async def _register(self) -> bool:
        if self._refusals and time.monotonic() < self._register_at:
            return False
        if not self._refusals:
            self._threads.forget()
            self._see(False, _REGISTERING)
        try:
            did_it = await self._torchserve.register(response_timeout_s=self._settings.deadline_s)
        except ServiceError as error:
            self._refusals += 1
            # Each refused registration leaves an unpacked archive in TorchServe's temporary folder: ask ever less.
            self._register_at = time.monotonic() + min(_PAUSE_S * 2**self._refusals, _LONGEST_PAUSE_S)
            is_hopeless = self._refusals >= _MANY_REGISTRATIONS
            self._see(False, Fault(Code.NO_WORKFLOW, error.message, needs_restart=is_hopeless))
            return False
        if did_it and self._was_registered:
            self._metrics.torchserve_restarts.inc()
        self._was_registered |= did_it
        self._refusals = 0
        return did_it  # else the next look sees what became of the other gateway's attempt

    async def _ask_stages(self) -> Sequence[Fault]:
        began = time.monotonic()
        try:
            target = await self._any_target()
            if target is None:
                return await self._stages_without_worker() or [Fault(Code.NO_DATASETS, _NOTHING)]
            await self._ask_canary(target, began)
        except TorchServeGone as error:  # since the look began; the next one knows more
            return [Fault(Code.UNREACHABLE, error.message)]
        except PgnError as error:
            silent = self._silent_stage(began) if isinstance(error, DeadlineExceeded) else []
            return await self._stages_without_worker() or silent or [Fault(Code.FAILED, error.message)]
        return self._judge_states([state for stage in STAGES if (state := await self._ask_state(stage, target))])

    async def _ask_canary(self, target: Target, began: float) -> None:
        """Ask, and say what is wrong while the answer does not come, which can take the whole deadline."""
        canary = asyncio.ensure_future(self._canary(target, Deadline(self._settings.deadline_s)))
        try:
            await asyncio.wait((canary,), timeout=_QUICK_ANSWER_S)
            if not canary.done() and (dead := await self._stages_without_worker()):
                self._see(True, *dead)
            await asyncio.wait((canary,), timeout=self._settings.deadline_s / 2)
            if not canary.done() and (faults := await self._stages_without_worker() or self._silent_stage(began)):
                self._see(True, *faults)
            await canary
        finally:
            canary.cancel()

    async def _stages_without_worker(self) -> list[Fault]:
        faults = []
        for stage in STAGES:
            try:
                workers = await self._torchserve.workers(stage)
            except ServiceError:  # the next look says what it is
                continue
            if not any(worker.is_ready for worker in workers):
                is_loading = any(worker.pid > 0 for worker in workers)
                text = "is loading" if is_loading else "has no process; TorchServe starts another, ever later"
                # While one loads, TorchServe itself sees to it that this ends.
                faults.append(Fault(Code.NO_WORKER, f"stage {stage} {text}", needs_restart=not is_loading))
        return faults

    def _silent_stage(self, began: float) -> list[Fault]:
        for stage in STAGES:  # whoever waits for the first cannot have reached the second
            if not self._answers_since(began, stage):
                text = f"stage {stage} has a worker and has answered nobody for {time.monotonic() - began:.1f} s"
                return [Fault(Code.STUCK, text, needs_restart=True)]
        return []

    async def _ask_state(self, stage: Stage, target: Target) -> StageState | None:
        try:
            return await self._torchserve.state(stage, (target,), timeout_s=_STATE_TIMEOUT_S)
        except PgnError as error:  # the canary has just been answered: no reason to call it ill
            _log.warning("no_state", extra={"stage": stage, "cause": error.message})
            return None

    def _judge_states(self, states: Sequence[StageState]) -> list[Fault]:
        if not states:
            return []
        wanted = self._settings.device
        faults = [
            Fault(Code.WRONG_DEVICE, f"stage {state.stage} computes on {state.device}; PGN_DEVICE is {wanted}")
            for state in states
            if wanted != "auto" and not state.device.startswith(wanted)
        ]
        threads, memory = states[-1].server_threads, states[-1].server_rss_bytes
        self._metrics.torchserve_threads.set(threads)
        self._metrics.torchserve_rss.set(memory)
        if self._threads.leaks(threads):
            text = f"TorchServe has {threads} threads and ever more; it began with {self._threads.first}"
            faults.append(Fault(Code.THREADS, text, needs_restart=True, stops_requests=False))
        if memory > self._settings.max_server_bytes:
            text = f"TorchServe has {memory:,} bytes of memory; the limit is {self._settings.max_server_bytes:,}"
            faults.append(Fault(Code.MEMORY, text, needs_restart=True, stops_requests=False))
        return faults

    def _see(self, is_registered: bool, *faults: Fault) -> None:
        before = {fault.code for fault in self.verdict.faults}
        self._is_registered = is_registered
        self.verdict.update(faults)
        if {fault.code for fault in faults} != before:
            level = logging.INFO if before else logging.WARNING  # until now all was well
            seen = {"ready": self.readiness.is_ready, "faults": [str(fault) for fault in faults]}
            _log.log(level, "faults", extra=seen)
        self._metrics.ready.set(self.readiness.is_ready)
        for code in Code:
            self._metrics.faults.labels(code.value).set(any(fault.code is code for fault in faults))

    async def _pause(self) -> None:
        await asyncio.sleep(_PAUSE_S)  # however many requests meet trouble at once
        if self.readiness.is_ready:
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._alarm.wait(), _READY_PAUSE_S)
