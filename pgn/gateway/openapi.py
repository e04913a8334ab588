"""What the OpenAPI document says of bodies and errors, beyond what the routes' types tell."""

from __future__ import annotations

from typing import Any, Final

from fastapi import FastAPI

from pgn.gateway.bodies import FIELD
from pgn.gateway.edge import ErrorBody

SUMMARY: Final = "One frozen vision transformer, adapted to many data sets by prompt generation networks"
_BYTES: Final = {"type": "string", "format": "binary"}
IMAGE_BODY: Final[dict[str, Any]] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/octet-stream": {"schema": _BYTES},
            "image/*": {"schema": _BYTES},
            "multipart/form-data": {
                "schema": {"type": "object", "required": [FIELD], "properties": {FIELD: _BYTES}},
            },
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": [FIELD],
                    "properties": {FIELD: {"type": "string", "format": "byte", "description": "base64"}},
                },
            },
        },
    }
}
NOT_FOUND: Final[dict[int | str, dict[str, Any]]] = {
    404: {"model": ErrorBody, "description": "No such data set; the message has the near names"},
}
ERRORS: Final[dict[int | str, dict[str, Any]]] = {
    400: {"model": ErrorBody, "description": "Empty body, malformed body, or wrong parameters"},
    **NOT_FOUND,
    413: {"model": ErrorBody, "description": "Body over the limit, or more pixels than the limit"},
    415: {"model": ErrorBody, "description": "Not an image"},
    422: {"model": ErrorBody, "description": "An image that cannot be decoded"},
    503: {"model": ErrorBody, "description": "Not ready, overloaded, or the data set's bundle is unavailable"},
    504: {"model": ErrorBody, "description": "No answer within the deadline"},
}


def describe_only_what_happens(app: FastAPI) -> None:
    """Take FastAPI's own 422 out of `/openapi.json`: malformed parameters are answered 400, with our error body."""
    generate = app.openapi

    def described() -> dict[str, Any]:
        document = generate()
        for operations in document["paths"].values():
            for operation in operations.values():
                if "HTTPValidationError" in str(operation["responses"].get("422")):
                    del operation["responses"]["422"]
        for name in ("HTTPValidationError", "ValidationError"):
            document["components"]["schemas"].pop(name, None)
        return document

    app.openapi = described  # type: ignore[method-assign]  # FastAPI's documented way to extend the document
