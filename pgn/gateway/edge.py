"""The edge of every request: its id, its error body, its count. Errors become HTTP here and nowhere else."""

from __future__ import annotations

import logging
import re
import secrets
import time
from typing import Any, Final

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pgn.errors import NotReady, Overloaded, PgnError, RequestError, UnknownPath, WrongMethod
from pgn.gateway.metrics import NO_DATASET, Metrics

_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_RETRY_AFTER_S: Final = 1
_CLIENT_GONE: Final = 499  # nobody reads this status but the metrics; nginx's number for it

_log = logging.getLogger(__name__)


class ErrorFields(BaseModel):
    """What went wrong, and what to do about it."""

    code: str
    message: str
    hint: str
    request_id: str


class ErrorBody(BaseModel):
    """The body of every answer that is not a success."""

    error: ErrorFields


def error_response(error: PgnError, request_id: str) -> JSONResponse:
    """The HTTP answer that stands for an error."""
    headers = {"Retry-After": str(_RETRY_AFTER_S)} if error.status == 503 and error.retryable else None
    body = {"error": {**error.to_wire(), "request_id": request_id}}
    return JSONResponse(body, status_code=error.status, headers=headers)


class Edge:
    """The outermost layer: gives each request an id, counts it, and turns what is left of errors into answers."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app = app
        self.metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request_id = _request_id(scope)
        scope.setdefault("state", {})["request_id"] = request_id
        started = time.perf_counter()
        status = 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", request_id.encode())]
            await send(message)

        try:
            await self.app(scope, receive, send_with_id)
        except ClientDisconnect:
            status = _CLIENT_GONE
        except Exception:
            _log.exception("event=internal_error request_id=%s", request_id)
            if status:  # half an answer is out; only a broken connection can still say that it is wrong
                raise
            error = PgnError("the gateway met a fault of its own")
            await error_response(error, request_id)(scope, receive, send_with_id)
        finally:
            self._count(scope, status, time.perf_counter() - started)

    def _count(self, scope: Scope, status: int, seconds: float) -> None:
        route = scope.get("route")
        endpoint = "unknown" if route is None else route.name
        dataset = scope["state"].get("dataset", NO_DATASET)
        self.metrics.requests.labels(endpoint, dataset, str(status)).inc()
        self.metrics.request_seconds.labels(endpoint).observe(seconds)


def _request_id(scope: Scope) -> str:
    for name, value in scope["headers"]:
        if name == b"x-request-id":
            given = value.decode("latin-1")
            if _REQUEST_ID.fullmatch(given):
                return str(given)
    return secrets.token_hex(8)


def answer_errors(app: FastAPI) -> None:
    """Make every error that a route raises, FastAPI's own included, answer with our body."""

    async def pgn_error(request: Request, error: Any) -> JSONResponse:
        request_id = request.state.request_id
        if error.status >= 500 and not isinstance(error, (Overloaded, NotReady)):  # those come by the thousand
            _log.error("event=request_failed request_id=%s code=%s message=%r", request_id, error.code, error.message)
        return error_response(error, request_id)

    async def wrong_parameters(request: Request, error: Any) -> JSONResponse:
        faults = "; ".join(f"{fault['loc'][-1]}: {fault['msg']}" for fault in error.errors())
        return await pgn_error(request, RequestError(f"the request is wrong: {faults}"))

    async def http_error(request: Request, error: Any) -> JSONResponse:
        response = await pgn_error(request, _as_pgn_error(request, error))
        response.headers.update(error.headers or {})
        return response

    app.exception_handler(PgnError)(pgn_error)
    app.exception_handler(RequestValidationError)(wrong_parameters)
    app.exception_handler(HTTPException)(http_error)


def _as_pgn_error(request: Request, error: HTTPException) -> PgnError:
    if error.status_code == 404:
        return UnknownPath(f"there is nothing at {request.url.path[:200]!r}")
    if error.status_code == 405:
        return WrongMethod(f"{request.method[:20]} is not what {request.url.path[:200]!r} answers")
    return RequestError(f"the request is wrong: {error.detail}")
