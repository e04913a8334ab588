"""The layers around the routes, from the outside in: edge, CORS, access."""

from __future__ import annotations

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

from pgn.gateway.access import Access, open_ring
from pgn.gateway.audit import Audit
from pgn.gateway.draining import Draining
from pgn.gateway.edge import Edge
from pgn.gateway.metrics import Metrics
from pgn.settings import Settings

_CORS_AGE_S = 600


def add_layers(app: FastAPI, settings: Settings, metrics: Metrics, audit: Audit, draining: Draining) -> None:
    """Put the layers around `app`.

    Raises:
        SetupError: The file of API keys cannot be read.
    """
    ring = open_ring(settings, metrics, audit)
    app.add_middleware(Access, settings=settings, metrics=metrics, audit=audit, ring=ring)
    if settings.cors_origins:  # around access: a browser's preflight request carries no key
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=["GET", "POST", "PUT", "DELETE"],
            allow_headers=["Authorization", "X-API-Key", "X-Request-Id", "traceparent", "Content-Type"],
            expose_headers=["X-Request-Id", "Retry-After"],
            max_age=_CORS_AGE_S,
        )
    app.add_middleware(Edge, metrics=metrics, draining=draining)
