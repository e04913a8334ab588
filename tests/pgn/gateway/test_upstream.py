"""TorchServe's manners, one by one, over real connections."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pgn.errors import DeadlineExceeded, NotReady, PgnError, StageFailed, UnknownDataset
from pgn.gateway.deadline import Deadline
from pgn.gateway.upstream import TorchServe
from pgn.message import Target
from tests.pgn.gateway.scripted import ScriptedTorchServe, carry, fail, hold, lose, reset, say


class Seen:
    """What an upstream reported."""

    def __init__(self) -> None:
        self.retries: list[str] = []
        self.lost: list[str] = []
        self.missing = 0

    def on_missing(self) -> None:
        self.missing += 1


def ask(scripted: ScriptedTorchServe, call: Callable[[TorchServe], Awaitable[Any]]) -> tuple[Any, Seen]:
    """The result of `call`, an error too, and what the upstream reported."""
    seen = Seen()

    async def run() -> Any:
        upstream = TorchServe(
            scripted.config,
            count_retry=seen.retries.append,
            count_lost=seen.lost.append,
            on_missing=seen.on_missing,
        )
        async with upstream:
            try:
                return await call(upstream)
            except PgnError as error:
                return error

    return asyncio.run(run()), seen


def predict(seconds: float = 10) -> Callable[[TorchServe], Awaitable[bytes]]:
    return lambda upstream: upstream.predict_prompts(b"message", Deadline(seconds))


def test_an_answer_comes_as_it_was_sent(scripted: ScriptedTorchServe) -> None:
    """The bytes are the stage's, and the path is the workflow's model."""
    scripted.script["pgn"].append(say(b"\0\xffanswer"))
    assert ask(scripted, predict())[0] == b"\0\xffanswer"
    assert scripted.calls == ["POST /predictions/pgn__pgn"]


def test_connections_are_kept_and_reused(scripted: ScriptedTorchServe) -> None:
    """A new connection for each request would cost more than the request."""
    scripted.script["vit"] += [say(b"x")] * 5

    async def five(upstream: TorchServe) -> None:
        for _ in range(5):
            await upstream.predict_answer(b"message", Deadline(10))

    ask(scripted, five)
    assert len(scripted.connections) == 1


@pytest.mark.parametrize("mishap", [reset, fail(503), fail(500), fail(507), say(b"", 413)])
def test_a_mishap_is_tried_once_more_and_counted(scripted: ScriptedTorchServe, mishap: Any) -> None:
    """The second attempt's answer is the answer."""
    scripted.script["pgn"] += [mishap, say(b"answer")]
    answer, seen = ask(scripted, predict())
    assert answer == b"answer"
    assert seen.retries == ["pgn"]


def test_a_lost_answer_leaves_time_for_the_second_attempt(scripted: ScriptedTorchServe) -> None:
    """The first attempt ends at half of what is left, so the deadline still holds a second one."""
    scripted.script["pgn"] += [lose, say(b"answer")]
    answer, seen = ask(scripted, predict(0.4))
    assert answer == b"answer"
    assert seen.retries == ["pgn"]


def test_two_lost_answers_are_a_missed_deadline(scripted: ScriptedTorchServe) -> None:
    """Nothing waits beyond the deadline."""
    scripted.script["pgn"] += [lose, lose, say(b"too late")]
    assert isinstance(ask(scripted, predict(0.2))[0], DeadlineExceeded)
    assert scripted.count("pgn") == 2


def test_two_mishaps_are_a_failed_stage_with_torchserves_reason(scripted: ScriptedTorchServe) -> None:
    """The operator reads TorchServe's own words."""
    scripted.script["pgn"] += [fail(503, "queue is full")] * 2
    error, _ = ask(scripted, predict())
    assert isinstance(error, StageFailed)
    assert "queue is full" in error.message
    assert scripted.count("pgn") == 2


def test_a_stages_own_status_is_not_torchserves_error(scripted: ScriptedTorchServe) -> None:
    """`/predictions` honours a status that a stage sets; the body is still the stage's answer."""
    scripted.script["pgn"].append(say(b'{"error": {"code": "dataset.unknown"}}', 404))
    answer, seen = ask(scripted, predict())
    assert answer == b'{"error": {"code": "dataset.unknown"}}'
    assert seen.retries == []
    assert seen.missing == 0


def test_a_forgotten_workflow_is_reported(scripted: ScriptedTorchServe) -> None:
    """Whoever registers it is told at once."""
    scripted.is_registered = False
    error, seen = ask(scripted, predict())
    assert isinstance(error, NotReady)
    assert seen.missing == 2


def test_nobody_listening_is_not_ready() -> None:
    """A TorchServe that is down is named with its address."""
    absent = ScriptedTorchServe()
    for call in (predict(), TorchServe.is_registered):
        error, _ = ask(absent, call)
        assert isinstance(error, NotReady)
        assert str(absent.port) in error.message


def test_registering_passes_the_time_outs(scripted: ScriptedTorchServe) -> None:
    """Without `response_timeout` a hung worker would live for two minutes."""
    scripted.is_registered = False
    assert ask(scripted, TorchServe.is_registered)[0] is False
    did_it, _ = ask(scripted, lambda upstream: upstream.register(response_timeout_s=2.5))
    assert did_it is True
    assert scripted.calls[-1] == "POST /workflows?url=pgn.war&response_timeout=3&startup_timeout=120"
    assert ask(scripted, TorchServe.is_registered)[0] is True


def test_gateways_of_one_torchserve_register_one_at_a_time(scripted: ScriptedTorchServe, tmp_path: Path) -> None:
    """Of two registrations at once each finds the other's models, fails, and takes them away again."""
    shared = tmp_path / "config.properties"
    shared.touch()

    async def both() -> list[bool]:
        gateways = [
            TorchServe(
                replace(scripted.config, path=shared),
                count_retry=lambda _: None,
                count_lost=lambda _: None,
                on_missing=lambda: None,
            )
            for _ in range(2)
        ]
        async with gateways[0], gateways[1]:
            return await asyncio.gather(*(gateway.register(response_timeout_s=1) for gateway in gateways))

    assert asyncio.run(both()) == [True, False]
    assert len(scripted.calls) == 1


def test_a_refused_registration_says_why_and_a_second_one_is_no_fault(scripted: ScriptedTorchServe) -> None:
    """409 means that somebody was quicker; anything else is the operator's to read."""
    scripted.refusals += [500, 409]
    error, _ = ask(scripted, lambda upstream: upstream.register(response_timeout_s=1))
    assert isinstance(error, NotReady)
    assert "it is scripted so" in error.message
    assert ask(scripted, lambda upstream: upstream.register(response_timeout_s=1))[0] is False


def test_a_lost_answer_is_told_by_those_who_overtake(scripted: ScriptedTorchServe) -> None:
    """A stage serves first come, first served, so nobody has to wait for half of the deadline to be sure."""
    scripted.script["pgn"] += [lose, *[say(b"answer")] * 100_000]
    answered = 0

    async def run(upstream: TorchServe) -> bytes:
        nonlocal answered
        waiting = asyncio.create_task(upstream.predict_prompts(b"message", Deadline(60)))
        while not scripted.count("pgn"):
            await asyncio.sleep(0.001)
        while not waiting.done():
            assert await upstream.predict_prompts(b"other", Deadline(60)) == b"answer"
            answered += 1
        return waiting.result()

    answer, seen = ask(scripted, run)
    assert answer == b"answer"
    assert answered > 1
    assert seen.lost == ["pgn"]


def test_those_who_come_nearly_together_may_change_places(scripted: ScriptedTorchServe) -> None:
    """Where a batch ends between two such, the first waits for a whole batch longer: it is not lost."""
    go_on = threading.Event()
    scripted.script["pgn"] += [hold(go_on, say(b"first")), say(b"second")]

    async def run(upstream: TorchServe) -> bytes:
        deadline = Deadline(60)
        first = asyncio.create_task(upstream.predict_prompts(b"message", deadline))
        while not scripted.count("pgn"):
            await asyncio.sleep(0.001)
        assert await upstream.predict_prompts(b"other", Deadline(60)) == b"second"
        while deadline.left_s() > 58.5:  # several looks
            await asyncio.sleep(0.001)
        go_on.set()
        return await first

    answer, seen = ask(scripted, run)
    assert answer == b"first"
    assert seen.retries == []


def test_a_stage_that_is_only_slow_is_not_asked_twice(scripted: ScriptedTorchServe) -> None:
    """A second copy of everybody's work is the last thing that a busy server needs."""
    first_may, second_may = threading.Event(), threading.Event()
    scripted.script["pgn"] += [hold(first_may, say(b"first")), hold(second_may, say(b"second"))]

    async def run(upstream: TorchServe) -> bytes:
        first = asyncio.create_task(upstream.predict_prompts(b"message", Deadline(60)))
        while scripted.count("pgn") < 1:
            await asyncio.sleep(0.001)
        deadline = Deadline(2)
        second = asyncio.create_task(upstream.predict_prompts(b"message", deadline))
        while scripted.count("pgn") < 2:
            await asyncio.sleep(0.001)
        first_may.set()
        await first
        while deadline.left_s() > 0.9:  # more than half of it is over
            await asyncio.sleep(0.001)
        second_may.set()
        return await second

    answer, seen = ask(scripted, run)
    assert answer == b"second"
    assert seen.retries == []


def test_the_first_attempt_may_still_answer_after_the_second_was_sent(scripted: ScriptedTorchServe) -> None:
    """While a new worker loads, what was only queued is not thrown away for what was lost."""
    both_sent = threading.Event()
    scripted.script["pgn"] += [hold(both_sent, say(b"first")), lose]

    async def run(upstream: TorchServe) -> bytes:
        waiting = asyncio.create_task(upstream.predict_prompts(b"message", Deadline(1)))
        while scripted.count("pgn") < 2:
            await asyncio.sleep(0.001)
        both_sent.set()
        return await waiting

    answer, seen = ask(scripted, run)
    assert answer == b"first"
    assert seen.lost == ["pgn"]


def test_a_stage_says_what_it_holds_and_how_its_server_fares(scripted: ScriptedTorchServe) -> None:
    """The gateway pins no version before both stages have it, and judges TorchServe by its threads and memory."""
    scripted.state |= {"revision": 7, "server_threads": 61}
    target = Target(dataset="birds", digest="d" * 64)
    state, _ = ask(scripted, lambda upstream: upstream.state("vit", [target], timeout_s=10))
    assert (state.stage, state.revision, state.server_threads) == ("vit", 7, 61)
    assert [(held.dataset, held.digest) for held in state.versions] == [("birds", "d" * 64)]


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (carry(UnknownDataset("no 'birds'"), as_json=False), UnknownDataset),
        (carry(UnknownDataset("no 'birds'"), as_json=True), UnknownDataset),
        (say(b"nonsense"), StageFailed),
        (fail(500, "Worker died."), StageFailed),
    ],
)
def test_a_stage_that_gives_no_state_is_an_error(
    scripted: ScriptedTorchServe, reply: Any, error: type[PgnError]
) -> None:
    """Either stage's way of carrying an error is read, and whatever else comes is no state."""
    scripted.script["state"].append(reply)
    given, _ = ask(scripted, lambda upstream: upstream.state("pgn", timeout_s=10))
    assert isinstance(given, error)
