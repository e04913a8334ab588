"""From a request's body to the bytes that it carries: raw, a multipart form, or JSON with base64."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from typing import Any, Final

from pgn.errors import EmptyBody, MalformedRequest, RequestTooLarge
from pgn.gateway.forms import read_form

IMAGE_FIELD: Final = "image"
IMAGES_FIELD: Final = "images"
BUNDLE_FIELD: Final = "bundle"
SIGNATURE_FIELD: Final = "signature"

_NO_IMAGES: Final = "send raw image bytes, multipart with fields 'image', or JSON {\"image\": base64}"
_NO_BUNDLE: Final = "send the bundle's bytes as the body, or multipart with a field 'bundle' and perhaps 'signature'"
_TOO_LARGE: Final = "PGN_MAX_BUNDLE_BYTES of the service is the limit"


def image_bytes(body: bytes, content_type: str, max_images: int = 1) -> list[bytes]:
    """The encoded images in `body`, in their order.

    Every content type but `multipart/form-data` and `application/json` is taken as raw image bytes: what a client
    calls its bytes is not to be trusted (curl's `--data-binary` says `application/x-www-form-urlencoded`).

    Args:
        body: The whole body.
        content_type: As the request says.
        max_images: How many may be in it.

    Raises:
        EmptyBody: There are no image bytes.
        MalformedRequest: The form or the JSON does not parse, or holds anything but images.
        RequestTooLarge: There are more images.
    """
    if not body:
        raise EmptyBody("the request's body has 0 bytes")
    kind = _kind(content_type)
    if kind == "multipart/form-data":
        images = read_form(body, content_type, {IMAGE_FIELD: max_images})[IMAGE_FIELD]
        if not images:
            raise MalformedRequest(f"the form has no field {IMAGE_FIELD!r}")
    elif kind == "application/json":
        images = _from_json(body, max_images)
    else:
        images = [body]
    for number, image in enumerate(images, start=1):
        if not image:
            which = f"image {number} of {len(images)}" if len(images) > 1 else f"the field {IMAGE_FIELD!r}"
            raise EmptyBody(f"{which} has 0 bytes")
    return images


def _kind(content_type: str) -> str:
    return content_type.partition(";")[0].strip().lower()


def _from_json(body: bytes, max_images: int) -> list[bytes]:
    try:
        fields = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise MalformedRequest(f"the body is no JSON: {error}", hint=_NO_IMAGES) from error
    texts = _texts(fields)
    if len(texts) > max_images:
        raise RequestTooLarge(
            f"the request has {len(texts)} images; the limit is {max_images}", hint="send them in several requests"
        )
    images = []
    for text in texts:
        try:
            images.append(base64.b64decode(text, validate=True))
        except ValueError as error:
            which = f"image {len(images) + 1} of {len(texts)}" if len(texts) > 1 else f"the field {IMAGE_FIELD!r}"
            raise MalformedRequest(f"{which} is no base64: {error}", hint=_NO_IMAGES) from error
    return images


def _texts(fields: Any) -> list[str]:
    if isinstance(fields, dict) and fields.keys() == {IMAGE_FIELD} and isinstance(fields[IMAGE_FIELD], str):
        return [fields[IMAGE_FIELD]]
    if isinstance(fields, dict) and fields.keys() == {IMAGES_FIELD}:
        texts = fields[IMAGES_FIELD]
        if isinstance(texts, list) and texts and all(isinstance(text, str) for text in texts):
            return texts
    raise MalformedRequest(
        f"the JSON body is not an object with one text field {IMAGE_FIELD!r}, or a list of texts {IMAGES_FIELD!r}",
        hint=_NO_IMAGES,
    )


@dataclass(frozen=True)
class Upload:
    """A bundle as it came, with its signature if that came along."""

    bundle: bytes
    signature: bytes | None


def read_upload(body: bytes, content_type: str, max_bytes: int) -> Upload:
    """The bundle in `body`: the body itself, or the field `bundle` of a form.

    Raises:
        EmptyBody: There are no bytes.
        MalformedRequest: The form does not parse, or holds other fields.
        RequestTooLarge: The bundle has more than `max_bytes`.
    """
    signature: list[bytes] = []
    bundle = [body]
    if _kind(content_type) == "multipart/form-data":
        fields = read_form(body, content_type, {BUNDLE_FIELD: 1, SIGNATURE_FIELD: 1})
        bundle, signature = fields[BUNDLE_FIELD], fields[SIGNATURE_FIELD]
        if not bundle:
            raise MalformedRequest(f"the form has no field {BUNDLE_FIELD!r}", hint=_NO_BUNDLE)
    if not bundle[0]:
        raise EmptyBody("the bundle has 0 bytes", hint=_NO_BUNDLE)
    if len(bundle[0]) > max_bytes:
        raise RequestTooLarge(f"the bundle has {len(bundle[0]):,} bytes; the limit is {max_bytes:,}", hint=_TOO_LARGE)
    return Upload(bundle[0], signature[0] if signature else None)
