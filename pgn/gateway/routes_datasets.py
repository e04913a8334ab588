"""The routes that list what is served, and those that change it."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from pgn.gateway.changes import Change
from pgn.gateway.listing import ChangeBody, DatasetDetail, DatasetList
from pgn.gateway.listing import list_datasets as list_all
from pgn.gateway.listing import show_dataset as show_one
from pgn.gateway.openapi import (
    BUNDLE_BODY,
    LIST_ERRORS,
    PUT_ERRORS,
    REMOVE_ERRORS,
    ROLLBACK_ERRORS,
    SHOW_ERRORS,
    DatasetName,
)
from pgn.gateway.service import gateway_of

_SERVED = "In the index, and served by this gateway"
_KEPT = {"model": ChangeBody, "description": "In the index, but not served yet; `state` and `reason` say why"}

router = APIRouter(tags=["data sets"])


class PutQuery(BaseModel):
    """The query of an upload; a parameter that is not read here is refused, not passed over."""

    model_config = ConfigDict(extra="forbid")

    share: float = Field(
        1.0,
        gt=0,
        le=1,
        description="part of the data set's traffic; below 1 what is served stays beside it and divides the rest",
    )


@router.get("/v1/datasets", summary="List what is served", response_model=DatasetList, responses=LIST_ERRORS)
async def list_datasets(request: Request) -> Response:
    """The data sets that this key may ask, with the versions of each."""
    return _json(list_all(gateway_of(request).catalog, request.state.principal.may_ask))


@router.get(
    "/v1/datasets/{dataset}",
    summary="Show one data set with its classes",
    response_model=DatasetDetail,
    responses=SHOW_ERRORS,
)
async def show_dataset(request: Request, dataset: DatasetName) -> Response:
    """One data set with its versions and the names of its classes."""
    principal = request.state.principal
    principal.require(dataset)
    return _json(show_one(gateway_of(request).catalog.find(dataset, principal.may_ask)))


@router.put(
    "/v1/datasets/{dataset}",
    summary="Serve a bundle as this data set",
    response_model=ChangeBody,
    responses={
        200: {"description": f"{_SERVED}; it was before"},
        201: {"model": ChangeBody, "description": f"{_SERVED}: a new version"},
        202: _KEPT,
        **PUT_ERRORS,
    },
    openapi_extra=BUNDLE_BODY,
)
async def put_dataset(request: Request, dataset: DatasetName, query: Annotated[PutQuery, Query()]) -> Response:
    """The bundle's manifest has to name this data set. What is acknowledged is in the index and survives everything."""
    change = await gateway_of(request).changes.put(request, dataset, query.share)
    return _answer(change, status=201 if change.is_new else 200)


@router.delete(
    "/v1/datasets/{dataset}",
    summary="Serve this data set no more",
    response_model=ChangeBody,
    responses={200: {"description": "Not in the index, and not served by this gateway"}, 202: _KEPT, **REMOVE_ERRORS},
)
async def remove_dataset(request: Request, dataset: DatasetName) -> Response:
    """Its bundles are deleted too; requests that are under way are answered."""
    return _answer(await gateway_of(request).changes.remove(request, dataset))


@router.post(
    "/v1/datasets/{dataset}/rollback",
    summary="Take the newest version of this data set back",
    response_model=ChangeBody,
    responses={200: {"description": _SERVED}, 202: _KEPT, **ROLLBACK_ERRORS},
)
async def roll_back_dataset(request: Request, dataset: DatasetName) -> Response:
    """Versions beside it take its share; if it serves alone, the newest of `previous` serves again."""
    return _answer(await gateway_of(request).changes.roll_back(request, dataset))


def _answer(change: Change, *, status: int = 200) -> Response:
    return _json(change.body, status if change.is_served else 202)


def _json(body: BaseModel, status: int = 200) -> Response:
    return Response(body.model_dump_json(), status_code=status, media_type="application/json")
