"""Request bodies: whatever a client wraps an image in, the same bytes come out."""

from __future__ import annotations

import base64
import json

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgn.errors import EmptyBody, MalformedRequest
from pgn.gateway.bodies import image_bytes

SOME_BYTES = st.binary(min_size=1, max_size=2000) | st.sampled_from([b"\r\n--", b"\r\n--b--\r\n", b"--", b"\r\n\r\n"])


def form(fields: list[tuple[str, bytes]]) -> tuple[bytes, str]:
    request = httpx.Request("POST", "http://x", files=[(name, ("x.png", data)) for name, data in fields])
    return request.read(), request.headers["content-type"]


@given(SOME_BYTES)
def test_a_form_gives_back_the_bytes_that_went_in(data: bytes) -> None:
    """Images hold any bytes, line ends and dashes too."""
    assert image_bytes(*form([("image", data)])) == data


@given(SOME_BYTES)
def test_json_gives_back_the_bytes_that_went_in(data: bytes) -> None:
    """Base64 in JSON is for clients that cannot send bytes."""
    body = json.dumps({"image": base64.b64encode(data).decode()}).encode()
    assert image_bytes(body, "application/json") == data


@given(SOME_BYTES, st.sampled_from(["", "image/png", "text/plain", "application/x-www-form-urlencoded", ";"]))
def test_any_other_content_type_is_raw(data: bytes, content_type: str) -> None:
    """What a client calls its bytes decides nothing, and they are not copied."""
    assert image_bytes(data, content_type) is data


@given(
    data=st.binary(max_size=400),
    kind=st.sampled_from(["application/json", "multipart/form-data; boundary=b", "multipart/form-data; boundary="]),
)
def test_no_bytes_break_the_reader(data: bytes, kind: str) -> None:
    """Hostile bodies end in the client's errors."""
    with pytest.raises((EmptyBody, MalformedRequest)):
        image_bytes(data, kind)


def test_a_second_field_is_refused_by_name() -> None:
    """A field that is not read, such as top_k, is not passed over in silence."""
    with pytest.raises(MalformedRequest, match="top_k"):
        image_bytes(*form([("image", b"x"), ("top_k", b"3")]))
    with pytest.raises(MalformedRequest, match="more than one"):
        image_bytes(*form([("image", b"x"), ("image", b"y")]))


@pytest.mark.parametrize("keep", range(3, 60, 7))
def test_a_form_cut_short_is_refused(keep: int) -> None:
    """Half a form is not half an image."""
    body, content_type = form([("image", b"0123456789" * 10)])
    with pytest.raises(MalformedRequest, match="cut short"):
        image_bytes(body[: len(body) - keep], content_type)


def test_a_form_that_announces_another_field_and_ends_is_refused() -> None:
    """The image is whole, but what was cut off might have been meant."""
    with pytest.raises(MalformedRequest, match="cut short"):
        image_bytes(
            b'--b\r\nContent-Disposition: form-data; name="image"\r\n\r\nx\r\n--b\r\n',
            "multipart/form-data; boundary=b",
        )


def test_an_empty_field_is_an_empty_body() -> None:
    """`curl -F image=@/dev/null` says what an empty body says."""
    with pytest.raises(EmptyBody):
        image_bytes(*form([("image", b"")]))
