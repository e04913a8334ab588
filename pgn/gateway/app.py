"""The gateway as an ASGI application: its routes."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import Annotated

from fastapi import APIRouter, FastAPI, Query, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse
from fastapi_offline import FastAPIOffline
from pydantic import BaseModel, ConfigDict, Field

import pgn
from pgn.gateway.datasets import Catalog, DatasetDetail, DatasetList
from pgn.gateway.edge import Edge, answer_errors
from pgn.gateway.metrics import EXPOSITION_TYPE
from pgn.gateway.openapi import ERRORS, IMAGE_BODY, NOT_FOUND, SUMMARY, describe_only_what_happens
from pgn.gateway.service import Gateway
from pgn.message import Answer, Features
from pgn.settings import Settings, TorchServeConfig


class ReadyBody(BaseModel):
    """Whether requests are answered, and if not, why."""

    ready: bool
    reasons: tuple[str, ...]


class OneQuery(BaseModel):
    """The query of a prediction; a parameter that is not read here is refused, not passed over."""

    model_config = ConfigDict(extra="forbid")

    top_k: int | None = Field(None, ge=1, le=1000, description="classes in the answer")


class SeveralQuery(OneQuery):
    """The same, with the data sets to ask."""

    datasets: str = Field(description="names, separated by commas")


class PromptedQuery(OneQuery):
    """The same for an image that carries its prompts."""

    dataset: str | None = Field(None, description="whose head answers; without one the answer is the features")


router = APIRouter()


def _gateway(request: Request) -> Gateway:
    gateway = request.app.state.gateway
    assert isinstance(gateway, Gateway)
    return gateway


@router.post(
    "/v1/datasets/{dataset}/predict",
    tags=["prediction"],
    summary="Ask one data set about an image",
    response_model=Answer,
    responses=ERRORS,
    openapi_extra=IMAGE_BODY,
)
async def predict(request: Request, dataset: str, query: Annotated[OneQuery, Query()]) -> Response:
    """Ask one data set's PGN about one image."""
    answer = await _gateway(request).predict(request, [dataset], query.top_k)
    return Response(answer, media_type="application/json")


@router.post(
    "/v1/predict",
    tags=["prediction"],
    summary="Ask several data sets about one image",
    response_model=Answer,
    responses=ERRORS,
    openapi_extra=IMAGE_BODY,
)
async def predict_several(request: Request, query: Annotated[SeveralQuery, Query()]) -> Response:
    """Ask several data sets' PGNs about one image, which is decoded once."""
    names = [name.strip() for name in query.datasets.split(",")]
    answer = await _gateway(request).predict(request, names, query.top_k)
    return Response(answer, media_type="application/json")


@router.post(
    "/v1/backbone/predict",
    tags=["prediction"],
    summary="Ask the frozen ViT alone about an image that carries its prompts",
    response_model=Answer | Features,
    responses=ERRORS,
    openapi_extra=IMAGE_BODY,
)
async def predict_prompted(request: Request, query: Annotated[PromptedQuery, Query()]) -> Response:
    """No PGN runs: the prompts are rows of pixels below the image, as `pgn invert` writes them."""
    answer = await _gateway(request).predict_prompted(request, query.dataset, query.top_k)
    return Response(answer, media_type="application/json")


@router.get("/v1/datasets", tags=["data sets"], summary="List what is served")
async def list_datasets(request: Request) -> DatasetList:
    """What is served."""
    return _gateway(request).catalog.summary()


@router.get(
    "/v1/datasets/{dataset}", tags=["data sets"], summary="Show one data set with its classes", responses=NOT_FOUND
)
async def show_dataset(request: Request, dataset: str) -> DatasetDetail:
    """One data set with its classes."""
    return _gateway(request).catalog.find(dataset)


@router.get("/livez", tags=["operation"], summary="Is the gateway's process alive?")
async def livez() -> dict[str, str]:
    """The gateway's process answers."""
    return {"status": "alive"}


@router.get(
    "/readyz",
    tags=["operation"],
    summary="Are predictions answered, and if not, why?",
    response_model=ReadyBody,
    responses={503: {"model": ReadyBody, "description": "Not ready; the reasons say why"}},
)
async def readyz(request: Request) -> JSONResponse:
    """Both stages have answered a canary; if not, why."""
    readiness = _gateway(request).reconciler.readiness
    body = ReadyBody(ready=readiness.is_ready, reasons=readiness.reasons)
    return JSONResponse(body.model_dump(mode="json"), status_code=200 if readiness.is_ready else 503)


@router.get("/metrics", tags=["operation"], summary="Metrics for Prometheus", response_class=PlainTextResponse)
async def metrics(request: Request) -> Response:
    """Counts and times in Prometheus' text format."""
    return Response(_gateway(request).metrics.exposition(), media_type=EXPOSITION_TYPE)


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
        version=pgn.__version__,
        lifespan=lifespan,
        redirect_slashes=False,
    )
    app.state.gateway = gateway
    app.include_router(router)
    describe_only_what_happens(app)
    answer_errors(app)
    app.add_middleware(Edge, metrics=gateway.metrics)
    return app
