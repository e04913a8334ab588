"""Multipart forms: the fields that an end point knows, whole, or an error that says what is wrong."""

from __future__ import annotations

import httpx
import pytest

from pgn.errors import MalformedRequest, RequestTooLarge
from pgn.gateway.forms import read_form

ONE = {"image": 1}


def form(fields: list[tuple[str, bytes]]) -> tuple[bytes, str]:
    """A form as httpx writes it, and its content type."""
    request = httpx.Request("POST", "http://x", files=[(name, ("x.png", data)) for name, data in fields])
    return request.read(), request.headers["content-type"]


def test_fields_come_back_by_name_and_in_order() -> None:
    """Also those that are not there, as nothing."""
    body, content_type = form([("a", b"1"), ("b", b""), ("a", b"2")])
    assert read_form(body, content_type, {"a": 2, "b": 1, "c": 1}) == {"a": [b"1", b"2"], "b": [b""], "c": []}


def test_a_field_that_is_not_read_is_refused_by_name() -> None:
    """A misspelt field, or a parameter that belongs into the query, is not passed over in silence."""
    with pytest.raises(MalformedRequest, match="top_k"):
        read_form(*form([("image", b"x"), ("top_k", b"3")]), ONE)


def test_a_field_too_many_is_refused() -> None:
    """Where one is meant, a second one is a mistake; where several are, there is a limit."""
    with pytest.raises(MalformedRequest, match="more than one"):
        read_form(*form([("image", b"x"), ("image", b"y")]), ONE)
    with pytest.raises(RequestTooLarge, match="more than 2 fields 'image'"):
        read_form(*form([("image", b"x")] * 3), {"image": 2})


@pytest.mark.parametrize("keep", range(3, 60, 7))
def test_a_form_cut_short_is_refused(keep: int) -> None:
    """Half a form is not half an image."""
    body, content_type = form([("image", b"0123456789" * 10)])
    with pytest.raises(MalformedRequest, match="cut short"):
        read_form(body[: len(body) - keep], content_type, ONE)


def test_a_form_that_announces_another_field_and_ends_is_refused() -> None:
    """The image is whole, but what was cut off might have been meant."""
    body = b'--b\r\nContent-Disposition: form-data; name="image"\r\n\r\nx\r\n--b\r\n'
    with pytest.raises(MalformedRequest, match="cut short"):
        read_form(body, "multipart/form-data; boundary=b", ONE)


def test_a_part_without_a_name_does_not_take_that_of_the_one_before() -> None:
    """Each part stands for itself."""
    body = b'--b\r\nContent-Disposition: form-data; name="image"\r\n\r\nx\r\n--b\r\nX: y\r\n\r\nz\r\n--b--\r\n'
    with pytest.raises(MalformedRequest, match="a field ''"):
        read_form(body, "multipart/form-data; boundary=b", {"image": 2})
