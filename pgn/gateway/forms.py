"""Multipart forms, read from memory: the values of the fields that an end point knows."""

from __future__ import annotations

from collections.abc import Mapping

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from pgn.errors import MalformedRequest, RequestTooLarge


def read_form(body: bytes, content_type: str, limits: Mapping[str, int]) -> dict[str, list[bytes]]:
    """The values of a form's fields, by name, in their order.

    Args:
        body: The whole body.
        content_type: Names the boundary.
        limits: Which fields are read, and how many of each; a field of another name is refused, not passed over.

    Raises:
        MalformedRequest: The form does not parse, is cut short, or holds other fields.
        RequestTooLarge: It holds too many of one that may come several times.
    """
    boundary = parse_options_header(content_type)[1].get(b"boundary")
    if not boundary:
        raise MalformedRequest("the multipart Content-Type names no boundary")
    form = _Form(limits)
    try:
        form.parse(body, boundary)
    except FormParserError as error:
        raise MalformedRequest(f"the multipart body does not parse: {error}") from error
    if not form.is_complete:
        raise MalformedRequest("the multipart body is cut short")
    return form.values


class _Form:
    """What the parser tells of a form; a field too many ends the parsing.

    Kept in memory: the body is there already, and a copy on disk, as form libraries make it, would cost more.
    """

    def __init__(self, limits: Mapping[str, int]) -> None:
        self.values: dict[str, list[bytes]] = {name: [] for name in limits}
        self.is_complete = False
        self._limits = limits
        self._header = bytearray()
        self._value = bytearray()
        self._disposition = b""
        self._name = ""
        self._data: list[memoryview] = []

    def parse(self, body: bytes, boundary: bytes) -> None:
        parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._begin_part,
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

    def _begin_part(self) -> None:
        self._disposition = b""
        self._data = []

    def _end_header(self) -> None:
        if self._header.lower() == b"content-disposition":
            self._disposition = bytes(self._value)
        self._header.clear()
        self._value.clear()

    def _begin_field(self) -> None:
        name = parse_options_header(self._disposition)[1].get(b"name", b"").decode(errors="replace")
        if name not in self._limits:
            known = " and ".join(map(repr, self._limits))
            raise MalformedRequest(f"the form has a field {name[:80]!r}; only {known} are read")
        limit = self._limits[name]
        if len(self.values[name]) >= limit:
            if limit == 1:
                raise MalformedRequest(f"the form has more than one field {name!r}")
            raise RequestTooLarge(
                f"the form has more than {limit} fields {name!r}, which is the limit",
                hint="send them in several requests",
            )
        self._name = name

    def _end_field(self) -> None:
        self.values[self._name].append(b"".join(self._data))

    def _end(self) -> None:
        self.is_complete = True
