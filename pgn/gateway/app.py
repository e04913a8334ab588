"""The gateway as an ASGI application: its routes for operators, and all routes put together."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse
from fastapi_offline import FastAPIOffline
from pydantic import BaseModel

import pgn
from pgn.gateway import routes_datasets, routes_predict
from pgn.gateway.datasets import Catalog
from pgn.gateway.edge import answer_errors
from pgn.gateway.layers import add_layers
from pgn.gateway.openapi import SUMMARY, TAGS, describe_what_happens
from pgn.gateway.service import Gateway, gateway_of
from pgn.settings import Settings, TorchServeConfig
from pgn.shared_metrics import EXPOSITION_TYPE


class ReadyBody(BaseModel):
    """Whether requests are answered, and if not, why."""

    ready: bool
    reasons: tuple[str, ...]


class TorchServeBody(BaseModel):
    """Whether TorchServe may run on, and if not, why only a restart of it helps."""

    alive: bool
    reasons: tuple[str, ...]


router = APIRouter()


@router.get("/livez", tags=["operation"], summary="Is the gateway's process alive?")
async def livez() -> dict[str, str]:
    """The gateway's process answers."""
    return {"status": "alive"}


@router.get(
    "/livez/torchserve",
    tags=["operation"],
    summary="May TorchServe run on, or does only a restart of it help?",
    response_model=TorchServeBody,
    responses={503: {"model": TorchServeBody, "description": "TorchServe has to be restarted; the reasons say why"}},
)
async def livez_torchserve(request: Request) -> JSONResponse:
    """The gateway's verdict on TorchServe, for whoever restarts it: `pgn serve`, or a liveness probe."""
    reasons = gateway_of(request).reconciler.verdict.restart_reasons
    body = TorchServeBody(alive=not reasons, reasons=reasons)
    return JSONResponse(body.model_dump(mode="json"), status_code=503 if reasons else 200)


@router.get(
    "/readyz",
    tags=["operation"],
    summary="Are predictions answered, and if not, why?",
    response_model=ReadyBody,
    responses={503: {"model": ReadyBody, "description": "Not ready; the reasons say why"}},
)
async def readyz(request: Request) -> JSONResponse:
    """Both stages have answered a canary; if not, why."""
    gateway = gateway_of(request)
    draining = ("gateway.draining: the gateway has been told to end",) if gateway.draining.has_begun else ()
    reasons = draining + gateway.reconciler.readiness.reasons
    body = ReadyBody(ready=not reasons, reasons=reasons)
    return JSONResponse(body.model_dump(mode="json"), status_code=503 if reasons else 200)


@router.get("/metrics", tags=["operation"], summary="Metrics for Prometheus", response_class=PlainTextResponse)
async def metrics(request: Request) -> Response:
    """Counts and times of all workers, of the stages and of TorchServe in Prometheus' text format."""
    return Response(await gateway_of(request).exposition(), media_type=EXPOSITION_TYPE)


def create_app(settings: Settings, torchserve: TorchServeConfig, catalog: Catalog) -> FastAPI:
    """The application, not yet open.

    Raises:
        SetupError: `max_in_flight` is not below TorchServe's queue.
    """
    gateway = Gateway(settings, torchserve, catalog)

    def lifespan(app: FastAPI) -> AbstractAsyncContextManager[None]:  # noqa: ARG001
        return gateway.open()

    app = FastAPIOffline(
        redoc_url=None,
        title="PGN Serve",
        summary=SUMMARY,
        openapi_tags=TAGS,
        version=pgn.__version__,
        lifespan=lifespan,
        redirect_slashes=False,
    )
    app.state.gateway = gateway
    for each in (routes_predict.router, routes_datasets.router, router):
        app.include_router(each)
    describe_what_happens(app)
    answer_errors(app)
    add_layers(app, settings, gateway.metrics, gateway.audit, gateway.draining)
    return app
