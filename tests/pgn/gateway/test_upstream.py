"""TorchServe's manners, one by one, over real connections."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from pgn.errors import DeadlineExceeded, NotReady, PgnError, StageFailed
from pgn.gateway.deadline import Deadline
from pgn.gateway.upstream import TorchServe
from tests.pgn.gateway.scripted import ScriptedTorchServe, fail, lose, reset, say


class Seen:
    """What an upstream reported."""

    def __init__(self) -> None:
        self.retries: list[str] = []
        self.missing = 0

    def on_missing(self) -> None:
        self.missing += 1


def ask(scripted: ScriptedTorchServe, call: Callable[[TorchServe], Awaitable[Any]]) -> tuple[Any, Seen]:
    """The result of `call`, an error too, and what the upstream reported."""
    seen = Seen()

    async def run() -> Any:
        upstream = TorchServe(scripted.config, count_retry=seen.retries.append, on_missing=seen.on_missing)
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
    error, _ = ask(scripted, lambda upstream: upstream.register(response_timeout_s=2.5))
    assert error is None
    assert scripted.calls[-1] == "POST /workflows?url=pgn.war&response_timeout=3&startup_timeout=120"
    assert ask(scripted, TorchServe.is_registered)[0] is True


def test_a_refused_registration_says_why_and_a_second_one_is_no_fault(scripted: ScriptedTorchServe) -> None:
    """409 means that somebody was quicker; anything else is the operator's to read."""
    scripted.refusals += [500, 409]
    error, _ = ask(scripted, lambda upstream: upstream.register(response_timeout_s=1))
    assert isinstance(error, NotReady)
    assert "it is scripted so" in error.message
    assert ask(scripted, lambda upstream: upstream.register(response_timeout_s=1))[0] is None
