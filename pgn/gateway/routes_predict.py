"""The routes that ask data sets about images."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from pgn.gateway.openapi import IMAGE_BODY, PREDICT_RESPONSES, DatasetName
from pgn.gateway.service import gateway_of
from pgn.message import Answer, Features

router = APIRouter(tags=["prediction"])


class OneQuery(BaseModel):
    """The query of a prediction; a parameter that is not read here is refused, not passed over."""

    model_config = ConfigDict(extra="forbid")

    top_k: int | None = Field(None, ge=1, le=1000, description="classes in a result, most probable first")
    embedding: bool = Field(False, description="add the features that the head read to every result")


class SeveralQuery(OneQuery):
    """The same, with the data sets to ask."""

    datasets: str = Field(description="names, separated by commas", examples=["digits,fashion-mnist"])


class PromptedQuery(OneQuery):
    """The same for images that carry their prompts."""

    dataset: str | None = Field(None, description="whose head answers; without one the answer is the features")


@router.post(
    "/v1/datasets/{dataset}/predict",
    summary="Ask one data set about images",
    response_model=Answer,
    responses=PREDICT_RESPONSES,
    openapi_extra=IMAGE_BODY,
)
async def predict(request: Request, dataset: DatasetName, query: Annotated[OneQuery, Query()]) -> Response:
    """Ask one data set's PGN about one image or several; the results are in their order."""
    return _json(await gateway_of(request).predict(request, [dataset], top_k=query.top_k, embedding=query.embedding))


@router.post(
    "/v1/predict",
    summary="Ask several data sets about images",
    response_model=Answer,
    responses=PREDICT_RESPONSES,
    openapi_extra=IMAGE_BODY,
)
async def predict_several(request: Request, query: Annotated[SeveralQuery, Query()]) -> Response:
    """Ask several data sets' PGNs about each image, which is decoded once; results by image, then by data set."""
    names = [name.strip() for name in query.datasets.split(",")]
    return _json(await gateway_of(request).predict(request, names, top_k=query.top_k, embedding=query.embedding))


@router.post(
    "/v1/backbone/predict",
    summary="Ask the frozen ViT alone about images that carry their prompts",
    response_model=Answer | Features,
    responses=PREDICT_RESPONSES,
    openapi_extra=IMAGE_BODY,
)
async def predict_prompted(request: Request, query: Annotated[PromptedQuery, Query()]) -> Response:
    """No PGN runs: the prompts are rows of pixels below the image, as `pgn invert` writes them."""
    names = [query.dataset] if query.dataset else []
    return _json(
        await gateway_of(request).predict(
            request, names, top_k=query.top_k, embedding=query.embedding, is_prompted=True
        )
    )


def _json(body: bytes) -> Response:
    return Response(body, media_type="application/json")
