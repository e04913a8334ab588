"""The outermost layer alone: ids and counts for requests that end oddly."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import ClientDisconnect
from starlette.types import Message, Receive, Scope, Send

from pgn.errors import ERRORS, NotReady
from pgn.gateway.edge import Edge, error_response
from pgn.gateway.metrics import Metrics


def run(app: Any, metrics: Metrics, request_id: bytes = b"") -> list[Message]:
    """What is sent for one request to `app` under the edge."""
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    scope: Scope = {"type": "http", "method": "GET", "path": "/", "headers": [(b"x-request-id", request_id)]}
    asyncio.run(Edge(app, metrics)(scope, receive, send))
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

    headers = dict(run(app, Metrics(), given_id)[0]["headers"])
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
    assert ("retry-after" in response.headers) == (error.status == 503 and error.retryable)


def test_retry_after_is_whole_seconds() -> None:
    """HTTP knows no fractions there."""
    assert int(error_response(NotReady("starting"), "id").headers["retry-after"]) >= 1
