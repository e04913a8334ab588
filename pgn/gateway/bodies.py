"""From a request's body to the bytes of one image: raw, a multipart form, or JSON with base64."""

from __future__ import annotations

import base64
import json

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from pgn.errors import EmptyBody, MalformedRequest

FIELD = "image"


def image_bytes(body: bytes, content_type: str) -> bytes:
    """The encoded image in `body`.

    Every content type but `multipart/form-data` and `application/json` is taken as raw image bytes: what a client
    calls its bytes is not to be trusted (curl's `--data-binary` says `application/x-www-form-urlencoded`).

    Raises:
        EmptyBody: There are no image bytes.
        MalformedRequest: The form or the JSON does not parse, or holds anything but one field `image`.
    """
    if not body:
        raise EmptyBody("the request's body has 0 bytes")
    kind = content_type.partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        image = _from_form(body, content_type)
    elif kind == "application/json":
        image = _from_json(body)
    else:
        return body
    if not image:
        raise EmptyBody(f"the field {FIELD!r} has 0 bytes")
    return image


def _from_json(body: bytes) -> bytes:
    try:
        fields = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise MalformedRequest(f"the body is no JSON: {error}") from error
    if not isinstance(fields, dict) or fields.keys() != {FIELD} or not isinstance(fields[FIELD], str):
        raise MalformedRequest(f"the JSON body is not an object with one text field {FIELD!r}")
    try:
        return base64.b64decode(fields[FIELD], validate=True)
    except ValueError as error:
        raise MalformedRequest(f"the field {FIELD!r} is no base64: {error}") from error


def _from_form(body: bytes, content_type: str) -> bytes:
    boundary = parse_options_header(content_type)[1].get(b"boundary")
    if not boundary:
        raise MalformedRequest("the multipart Content-Type names no boundary")
    form = _Form()
    try:
        form.parse(body, boundary)
    except FormParserError as error:
        raise MalformedRequest(f"the multipart body does not parse: {error}") from error
    if not form.is_complete:
        raise MalformedRequest("the multipart body is cut short")
    if form.image is None:
        raise MalformedRequest(f"the form has no field {FIELD!r}")
    return form.image


class _Form:
    """What the parser tells of a form with one field; the second field ends the parsing.

    Kept in memory: the body is there already, and a copy on disk, as form libraries make it, would cost more.
    """

    def __init__(self) -> None:
        self.image: bytes | None = None
        self.is_complete = False
        self._header = bytearray()
        self._value = bytearray()
        self._disposition = b""
        self._data: list[memoryview] = []

    def parse(self, body: bytes, boundary: bytes) -> None:
        parser = MultipartParser(
            boundary,
            {
                "on_header_field": lambda data, start, end: self._header.extend(data[start:end]),
                "on_header_value": lambda data, start, end: self._value.extend(data[start:end]),
                "on_header_end": self._end_header,
                "on_headers_finished": self._begin_field,
                "on_part_data": lambda data, start, end: self._data.append(memoryview(data)[start:end]),
                "on_part_end": self._end_field,
                "on_end": self._end,
            },
        )
        parser.write(body)

    def _end_header(self) -> None:
        if self._header.lower() == b"content-disposition":
            self._disposition = bytes(self._value)
        self._header.clear()
        self._value.clear()

    def _begin_field(self) -> None:
        name = parse_options_header(self._disposition)[1].get(b"name", b"").decode(errors="replace")
        if name != FIELD:
            raise MalformedRequest(f"the form has a field {name[:80]!r}; only {FIELD!r} is read")
        if self.image is not None:
            raise MalformedRequest(f"the form has more than one field {FIELD!r}")

    def _end_field(self) -> None:
        self.image = b"".join(self._data)

    def _end(self) -> None:
        self.is_complete = True
