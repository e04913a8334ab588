"""The outermost layer alone: ids and counts for requests that end oddly."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import ClientDisconnect
from starlette.types import Message, Receive, Scope, Send

from pgn.errors import ERRORS, NotReady
from pgn.gateway.draining import Draining
from pgn.gateway.edge import Edge, error_response
from pgn.gateway.keys import Principal
from pgn.gateway.metrics import Metrics
from pgn.message import CANARY_ID
from tests.pgn.gateway.conftest import RunningGateway


def run(
    app: Any, metrics: Metrics, headers: Sequence[tuple[bytes, bytes]] = (), *, draining: bool = False
) -> list[Message]:
    """What is sent for one request to `app` under the edge."""
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    scope: Scope = {"type": "http", "method": "GET", "path": "/", "query_string": b"a=secret", "headers": [*headers]}
    end = Draining()
    end.has_begun = draining
    asyncio.run(Edge(app, metrics, end)(scope, receive, send))
    return sent


def count(metrics: Metrics, code: str) -> float | None:
    labels = {"endpoint": "unknown", "dataset": "", "code": code}
    return metrics.registry.get_sample_value("pgn_requests_total", labels)


def test_a_client_that_leaves_is_counted_and_not_answered() -> None:
    """It is no fault of the service, and there is nobody to tell."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise ClientDisconnect

    metrics = Metrics()
    assert run(app, metrics) == []
    assert count(metrics, "499") == 1


def test_a_fault_in_the_middle_of_an_answer_breaks_the_connection() -> None:
    """Half an answer followed by an error body would be read as an answer."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError, match="in the middle"):
        run(app, Metrics())


@given(st.binary(max_size=200))
def test_whatever_id_is_sent_a_sane_one_comes_back(given_id: bytes) -> None:
    """Ids end up in logs and headers: only harmless characters, and not many."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["state"]["request_id"]
        await send({"type": "http.response.start", "status": 204, "headers": []})

    headers = dict(run(app, Metrics(), [(b"x-request-id", given_id)])[0]["headers"])
    assert 1 <= len(headers[b"x-request-id"]) <= 128
    assert set(headers[b"x-request-id"].decode()) <= set(
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._:-"
    )


@pytest.mark.parametrize("code", sorted(ERRORS))
def test_every_error_has_a_status_and_retry_after_only_where_it_helps(code: str) -> None:
    """Clients act on status and header; the table is the classes themselves."""
    error = ERRORS[code]("what was met")
    response = error_response(error, "id")
    assert response.status_code == error.status
    assert ("retry-after" in response.headers) == (error.status in (429, 503) and error.retryable)
    assert ("www-authenticate" in response.headers) == (error.status == 401)


def test_retry_after_is_whole_seconds() -> None:
    """HTTP knows no fractions there."""
    assert int(error_response(NotReady("starting"), "id").headers["retry-after"]) >= 1


async def answer(scope: Scope, receive: Receive, send: Send) -> None:
    """An application that answers two bytes and says who asked what."""
    scope["state"]["principal"] = Principal("team-a")
    scope["state"]["dataset"] = "digits"
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"ok"})


def test_the_trace_reaches_the_routes() -> None:
    """They hand it to the stages, whose log lines then belong to the caller's trace."""
    seen = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope["state"]["traceparent"])
        await answer(scope, receive, send)

    run(app, Metrics(), [(b"traceparent", b"00-" + b"a" * 32 + b"-" + b"b" * 16 + b"-01")])
    run(app, Metrics())
    assert seen[0].startswith("00-" + "a" * 32)
    assert len(seen[1]) == 55


def test_every_answer_forbids_guessing_its_type() -> None:
    """A browser must not run what is data."""
    assert (b"x-content-type-options", b"nosniff") in run(answer, Metrics())[0]["headers"]


@pytest.mark.parametrize("draining", [False, True])
def test_clients_are_asked_to_connect_anew_only_while_it_drains(draining: bool) -> None:
    """A kept connection would tie them to a gateway that is about to go."""
    headers = run(answer, Metrics(), draining=draining)[0]["headers"]
    assert ((b"connection", b"close") in headers) == draining


def test_a_request_is_one_line_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """Who asked what, and what came of it; never the query, which may hold anything."""
    with caplog.at_level(logging.INFO, "pgn.access"):
        run(answer, Metrics(), [(b"x-request-id", b"abc"), (b"x-api-key", b"secret")])
    (record,) = caplog.records
    fields = vars(record)
    names = ("method", "route", "status", "key", "dataset", "bytes", "request_id")
    assert [fields[name] for name in names] == ["GET", "/", 200, "team-a", "digits", 2, "abc"]
    assert fields["ms"] >= 0
    assert len(fields["trace_id"]) == 32
    assert "secret" not in str(fields)


def test_by_default_requests_are_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    """/metrics counts them; lines are for who wants them."""
    with caplog.at_level(logging.WARNING):
        run(answer, Metrics())
    assert not caplog.records


def test_no_client_passes_for_the_gateways_canary(gateway: RunningGateway) -> None:
    """Canaries are left out of drift and counts; whoever could take their id would be left out, too."""
    answer = gateway.http.get("/livez", headers={"X-Request-Id": CANARY_ID})
    assert answer.headers["x-request-id"] != CANARY_ID
