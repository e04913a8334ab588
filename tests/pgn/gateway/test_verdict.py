"""The verdict on TorchServe: slow moments pass, what lasts has it restarted."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from pgn.gateway.verdict import Code, Fault, Threads, Verdict

PATIENCE_S = 60
STUCK = Fault(Code.STUCK, "stage vit answers nobody", needs_restart=True)
NO_WORKER = Fault(Code.NO_WORKER, "stage vit has no process", needs_restart=True)
LEAK = Fault(Code.THREADS, "ever more threads", needs_restart=True, stops_requests=False)


@dataclass
class FakeClock:
    """Seconds that pass when a test says so."""

    now: float = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> FakeClock:
    """Starts at zero."""
    return FakeClock()


class TestVerdict:
    @pytest.fixture
    def verdict(self, clock: FakeClock) -> Verdict:
        """Restarts for what lasts a minute."""
        return Verdict(PATIENCE_S, clock)

    def test_until_the_first_look_nothing_is_ready(self, verdict: Verdict) -> None:
        """Nobody has asked the stages yet."""
        assert verdict.reasons == ("gateway.starting: the gateway has just started",)
        assert verdict.restart_reasons == ()

    def test_a_fault_that_passes_restarts_nothing(self, verdict: Verdict, clock: FakeClock) -> None:
        """However often it comes: each time its minute begins anew."""
        for _ in range(10):
            verdict.update([STUCK])
            assert verdict.reasons == ("stage.stuck: stage vit answers nobody",)
            clock.now += PATIENCE_S - 1
            assert verdict.restart_reasons == ()
            verdict.update([])
            assert verdict.reasons == ()

    def test_a_fault_that_lasts_has_torchserve_restarted(self, verdict: Verdict, clock: FakeClock) -> None:
        """The reason is the one that readiness gives."""
        for _ in range(PATIENCE_S):
            verdict.update([STUCK])
            assert verdict.restart_reasons == ()
            clock.now += 1
        assert verdict.restart_reasons == verdict.reasons == ("stage.stuck: stage vit answers nobody",)

    def test_a_worker_that_dies_again_and_again_is_one_fault(self, verdict: Verdict, clock: FakeClock) -> None:
        """Now it is dead, now it lives and answers nobody; neither lasts for long."""
        for fault in (STUCK, NO_WORKER, STUCK, NO_WORKER):
            verdict.update([fault])
            clock.now += PATIENCE_S / 4
        assert verdict.restart_reasons == ("stage.no_worker: stage vit has no process",)

    def test_what_no_restart_mends_restarts_nothing(self, verdict: Verdict, clock: FakeClock) -> None:
        """An empty bank is as empty afterwards."""
        verdict.update([Fault(Code.NO_DATASETS, "nothing")])
        clock.now += 1e6
        assert verdict.restart_reasons == ()
        assert verdict.reasons == ("bank.empty: nothing",)

    def test_a_leak_leaves_the_service_ready_until_the_restart(self, verdict: Verdict, clock: FakeClock) -> None:
        """It answers as well as ever, so nobody is sent away before it has to be."""
        verdict.update([LEAK])
        assert verdict.reasons == ()
        clock.now += PATIENCE_S
        assert verdict.reasons == verdict.restart_reasons == ("torchserve.threads: ever more threads",)


class TestThreads:
    WINDOW_S = 30
    LIMIT = 64

    @pytest.fixture
    def threads(self, clock: FakeClock) -> Threads:
        """A server whose first count is 100."""
        threads = Threads(self.LIMIT, self.WINDOW_S, clock)
        assert not threads.leaks(100)
        return threads

    def count(self, threads: Threads, clock: FakeClock, *counts: int) -> list[bool]:
        """What is said of counts that are taken five seconds apart."""
        said = []
        for count in counts:
            clock.now += 5
            said.append(threads.leaks(count))
        return said

    def test_threads_that_only_grow_are_a_leak(self, threads: Threads, clock: FakeClock) -> None:
        """One a failed request, for ever: that is how TorchServe's own executor of workflows leaks."""
        said = self.count(threads, clock, *range(100, 400, 5))
        assert said[-1]
        assert not any(said[:12])

    def test_a_burst_of_load_is_none(self, threads: Threads, clock: FakeClock) -> None:
        """Its pools end with it, so the lowest count stays where it was."""
        assert not any(self.count(threads, clock, *[100, 900, 900, 900, 900, 100] * 10))

    def test_pools_that_started_late_are_none(self, threads: Threads, clock: FakeClock) -> None:
        """Many threads that stay as many are what a large machine under load needs."""
        said = self.count(threads, clock, *[100] * 6, *[900] * 60)
        assert not any(said[-30:])

    def test_a_little_growth_is_none(self, threads: Threads, clock: FakeClock) -> None:
        """Up to the limit the JVM may grow as it likes."""
        assert not any(self.count(threads, clock, *range(100, 160)))

    def test_another_process_is_counted_from_its_own_first_count(self, threads: Threads, clock: FakeClock) -> None:
        """After a restart there may be more threads to begin with."""
        assert self.count(threads, clock, *range(100, 400, 5))[-1]
        threads.forget()
        assert not any(self.count(threads, clock, *[500] * 30))
        assert threads.first == 500


@pytest.mark.parametrize("code", [code.value for code in Code])
def test_operators_are_told_what_each_code_means(code: str) -> None:
    """A reason that nobody can look up is none."""
    page = Path(__file__).parents[3] / "docs" / "operations.md"
    assert f"| `{code}` |" in page.read_text()
