"""What the OpenAPI document says of bodies and errors, beyond what the routes' types tell."""

from __future__ import annotations

from typing import Any, Final

from pgn.gateway.bodies import FIELD
from pgn.gateway.edge import ErrorBody

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
