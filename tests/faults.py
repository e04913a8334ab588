"""What can happen to a running service, done to a real `pgn serve` under load, and how it came through."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import psutil

from tests.load import BROKEN, UNAVAILABLE, Load, Question
from tests.served import Served
from tests.servers import wait_until

GOOD_BEFORE = 100
GOOD_AFTER = 100


@dataclass(frozen=True)
class Fault:
    """Something that is done to a service.

    Attributes:
        name: For a table.
        strike: Does it, and returns when it is over.
        reasons: Codes, one of which `/readyz` says meanwhile; empty where the gateway itself is hit or nothing is seen.
        breaks_connections: Clients of the gateway may lose theirs.
    """

    name: str
    strike: Callable[[Served], None]
    reasons: frozenset[str] = frozenset()
    breaks_connections: bool = False


@dataclass(frozen=True)
class Outcome:
    """How a service came through a fault.

    Attributes:
        statuses: Of the good requests.
        wrong: What was answered and should not have been.
        reasons: Codes that `/readyz` gave.
        seconds: From the end of the fault to a ready service that answers.
    """

    fault: str
    statuses: Counter[int]
    wrong: Sequence[str]
    reasons: frozenset[str]
    seconds: float


def survive(server: Served, fault: Fault, good: Sequence[Question], bad: Sequence[Question]) -> Outcome:
    """Let `fault` happen under load, and wait until the service is well again."""
    seen: set[str] = set()
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.05):
            seen.update(reason.partition(":")[0] for reason in server.reasons().split("; ") if reason)

    watcher = threading.Thread(target=watch)
    with Load(server.url, good, bad) as load:
        wait_until(lambda: load.statuses[200] >= GOOD_BEFORE, "the load to begin")
        watcher.start()
        try:
            fault.strike(server)
            struck = time.monotonic()
            if fault.reasons:
                wait_until(lambda: bool(fault.reasons & seen), f"{' or '.join(fault.reasons)} to be seen")
            server.wait_ready()
            answered = load.statuses[200]
            wait_until(lambda: load.statuses[200] > answered, "good answers")
            seconds = time.monotonic() - struck
            wait_until(lambda: load.statuses[200] >= answered + GOOD_AFTER, "more good answers")
        finally:
            over.set()
            watcher.join()
    return Outcome(fault.name, load.statuses, load.wrong, frozenset(seen), seconds)


def check(fault: Fault, outcome: Outcome) -> None:
    """No wrong answer, and no failure but those that ask to try again."""
    assert not outcome.wrong, outcome.wrong[:3]
    allowed = {200} | UNAVAILABLE | ({BROKEN} if fault.breaks_connections else set())
    assert outcome.statuses.keys() <= allowed, outcome.statuses


def kill_worker(stage: str) -> Callable[[Served], None]:
    """SIGKILL for the process of a stage."""

    def strike(server: Served) -> None:
        worker = server.worker(stage)
        assert worker is not None
        worker.kill()
        wait_until(lambda: not worker.is_running(), "the worker's end")

    return strike


def stop_worker(stage: str) -> Callable[[Served], None]:
    """SIGSTOP for the process of a stage, which lives on and answers nobody until TorchServe kills it."""

    def strike(server: Served) -> None:
        worker = server.worker(stage)
        assert worker is not None
        worker.suspend()
        wait_until(lambda: not worker.is_running(), "TorchServe to kill the worker")

    return strike


def kill_jvm(server: Served) -> None:
    """SIGKILL for TorchServe."""
    server.find("ModelServer").kill()


def stop_jvm(server: Served) -> None:
    """SIGSTOP for TorchServe, which lives on and answers nobody until it is restarted."""
    jvm = server.find("ModelServer")
    jvm.suspend()
    wait_until(lambda: not jvm.is_running(), "the restart of TorchServe")


def kill_gateway(server: Served) -> None:
    """SIGKILL for the gateway, or for the parent of its processes."""
    server.find("pgn.gateway").kill()
    wait_until(lambda: not server.is_ready(), "the gateway to be missed")


def kill_gateway_worker(server: Served) -> None:
    """SIGKILL for one of the gateway's processes."""
    workers = gateway_workers(server)
    assert len(workers) > 1
    workers[0].kill()


def gateway_workers(server: Served) -> list[psutil.Process]:
    """The gateway's processes, where there are several."""
    children = server.find("pgn.gateway").children()
    return [child for child in children if any("spawn_main" in part for part in child.cmdline())]


FAULTS: Sequence[Fault] = (
    Fault("kill -9 stage pgn's worker", kill_worker("pgn"), reasons=frozenset({"stage.no_worker"})),
    Fault("kill -9 stage vit's worker", kill_worker("vit"), reasons=frozenset({"stage.no_worker"})),
    Fault("kill -9 TorchServe's JVM", kill_jvm, reasons=frozenset({"torchserve.unreachable"})),
    Fault("kill -9 a gateway worker", kill_gateway_worker, breaks_connections=True),
    Fault("kill -9 the gateway", kill_gateway, breaks_connections=True),
    # TorchServe kills a silent worker after the deadline, which may be before the gateway has called it stuck.
    Fault("SIGSTOP stage vit's worker", stop_worker("vit"), reasons=frozenset({"stage.stuck", "stage.no_worker"})),
    Fault("SIGSTOP TorchServe's JVM", stop_jvm, reasons=frozenset({"torchserve.hung"})),
)
