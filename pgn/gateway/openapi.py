"""What the OpenAPI document says of bodies, errors and keys, beyond what the routes' types tell."""

from __future__ import annotations

from typing import Annotated, Any, Final

from fastapi import FastAPI, Path

from pgn.gateway.bodies import BUNDLE_FIELD, IMAGE_FIELD, IMAGES_FIELD, SIGNATURE_FIELD
from pgn.gateway.edge import ErrorBody
from pgn.message import Result

Responses = dict[int | str, dict[str, Any]]
DatasetName = Annotated[
    str, Path(description="a data set of the index", openapi_examples={"digits": {"value": "digits"}})
]

SUMMARY: Final = "One frozen vision transformer, adapted to many data sets by prompt generation networks"
TAGS: Final = [
    {"name": "prediction", "description": "Ask data sets about images."},
    {"name": "data sets", "description": "What is served, and changing it."},
    {"name": "operation", "description": "For probes and Prometheus. Open to everybody who reaches the port."},
]
_GUARDED: Final = "/v1/"
_SCHEMES: Final = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "An API key; needed where the service has keys."},
    "apiKey": {"type": "apiKey", "in": "header", "name": "X-API-Key", "description": "The same in another header."},
}

_BYTES: Final = {"type": "string", "format": "binary"}
_BASE64: Final = {"type": "string", "contentEncoding": "base64", "description": "an image in base64"}
# A whole PNG of one grey pixel: what the page sends when it is tried out as it is.
_PIXEL: Final = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR42mNoAAAAggCB2kUIOwAAAABJRU5ErkJggg=="
IMAGE_BODY: Final[dict[str, Any]] = {
    "requestBody": {
        "required": True,
        "description": "One image as it is; one or several as a form or as JSON. Results are in their order.",
        "content": {
            "application/octet-stream": {"schema": _BYTES},
            "image/*": {"schema": _BYTES},
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": [IMAGE_FIELD],
                    "additionalProperties": False,
                    "properties": {IMAGE_FIELD: {"type": "array", "minItems": 1, "items": _BYTES}},
                },
            },
            "application/json": {
                "schema": {
                    "type": "object",
                    "additionalProperties": False,
                    "minProperties": 1,
                    "maxProperties": 1,
                    "properties": {
                        IMAGE_FIELD: _BASE64,
                        IMAGES_FIELD: {"type": "array", "minItems": 1, "items": _BASE64},
                    },
                },
                "examples": {
                    "one image": {"value": {IMAGE_FIELD: _PIXEL}},
                    "several images": {"value": {IMAGES_FIELD: [_PIXEL, _PIXEL]}},
                },
            },
        },
    }
}
BUNDLE_BODY: Final[dict[str, Any]] = {
    "requestBody": {
        "required": True,
        "description": "A bundle's bytes, or a form with the bundle and its signature.",
        "content": {
            "application/octet-stream": {"schema": _BYTES},
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": [BUNDLE_FIELD],
                    "additionalProperties": False,
                    "properties": {BUNDLE_FIELD: _BYTES, SIGNATURE_FIELD: _BYTES},
                },
            },
        },
    }
}

_ANSWER: Final = {
    "request_id": "6a1c03e5d2f4b798",
    "results": [
        {
            "image": 0,
            "dataset": "digits",
            "version": "3f9a0c1be77d2a41",
            "predictions": [{"label": "7", "probability": 0.98}, {"label": "1", "probability": 0.01}],
            "unknown": False,
        }
    ],
}


def _error(description: str, *, retry: bool = False) -> dict[str, Any]:
    response: dict[str, Any] = {"model": ErrorBody, "description": description}
    if retry:
        response["headers"] = {
            "Retry-After": {"description": "seconds to wait, if it may be tried again", "schema": {"type": "integer"}}
        }
    return response


LIST_ERRORS: Final[Responses] = {
    401: _error("No API key, or one that is unknown or has expired"),
    429: _error("The key has used up its rate, or has too many requests in flight", retry=True),
}
_KEY_ERRORS: Final[Responses] = {**LIST_ERRORS, 403: _error("The key may not do this")}
_NOT_FOUND: Final[Responses] = {404: _error("No such data set; the message has the near names")}
SHOW_ERRORS: Final[Responses] = {**_KEY_ERRORS, **_NOT_FOUND}
PREDICT_RESPONSES: Final[Responses] = {
    200: {
        "description": "Images in order, and for each its data sets in the order of the query",
        "content": {"application/json": {"example": _ANSWER}},
    },
    400: _error("Empty body, malformed body, or wrong parameters"),
    **_KEY_ERRORS,
    **_NOT_FOUND,
    413: _error("Body over the limit, too many images, too many pixels, or an answer that would be too large"),
    415: _error("Not an image"),
    422: _error("An image that cannot be decoded"),
    503: _error("Not ready, overloaded, or the data set's bundle is unavailable", retry=True),
    504: _error("No answer within the deadline"),
}
CHANGE_ERRORS: Final[Responses] = {
    **_KEY_ERRORS,
    502: _error("The bucket refuses the service: its credentials, its rights or its name are wrong"),
    503: _error("Other changes are under way, or the bucket does not answer", retry=True),
    507: _error("No room on the disk"),
}
PUT_ERRORS: Final[Responses] = {
    400: _error("Empty body, malformed form, or a wrong share"),
    **CHANGE_ERRORS,
    409: _error("Trained for another backbone, or too many versions side by side"),
    413: _error("Bundle over the limit"),
    422: _error("Not a valid bundle, another data set's, or not signed as it has to be; the message says why"),
    504: _error("The body did not come in time"),
}
ROLLBACK_ERRORS: Final[Responses] = {**CHANGE_ERRORS, **_NOT_FOUND, 409: _error("There is no version to go back to")}
REMOVE_ERRORS: Final[Responses] = {**CHANGE_ERRORS, **_NOT_FOUND}


def describe_what_happens(app: FastAPI) -> None:
    """Mend `/openapi.json`: describe keys, and drop FastAPI's own 422, as malformed parameters are answered 400."""
    generate = app.openapi

    def described() -> dict[str, Any]:
        document = generate()
        document["components"]["securitySchemes"] = _SCHEMES
        for path, operations in document["paths"].items():
            for operation in operations.values():
                if "HTTPValidationError" in str(operation["responses"].get("422")):
                    del operation["responses"]["422"]
                if path.startswith(_GUARDED):  # the last alternative: a service without keys asks for none
                    operation["security"] = [{"bearer": []}, {"apiKey": []}, {}]
        schemas = document["components"]["schemas"]
        for name in ("HTTPValidationError", "ValidationError"):
            schemas.pop(name, None)
        # Its own serialiser, which leaves out an embedding that was not asked for, would hide the fields.
        schemas["Result"] = Result.model_json_schema(ref_template="#/components/schemas/{model}")
        schemas |= schemas["Result"].pop("$defs")
        return document

    app.openapi = described  # type: ignore[method-assign]  # FastAPI's documented way to extend the document
