"""Request bodies: whatever a client wraps its images in, the same bytes come out."""

from __future__ import annotations

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgn.errors import EmptyBody, MalformedRequest, RequestTooLarge
from pgn.gateway.bodies import Upload, image_bytes, read_upload
from tests.pgn.gateway.test_forms import form

SOME_BYTES = st.binary(min_size=1, max_size=2000) | st.sampled_from([b"\r\n--", b"\r\n--b--\r\n", b"--", b"\r\n\r\n"])


def named(values: st.SearchStrategy[object]) -> st.SearchStrategy[object]:
    """JSON objects, among them some with our fields."""
    return st.dictionaries(st.sampled_from(["image", "images", "x"]), values)


@given(st.lists(SOME_BYTES, min_size=1, max_size=4))
def test_a_form_gives_back_the_bytes_that_went_in(images: list[bytes]) -> None:
    """Images hold any bytes, line ends and dashes too; several keep their order."""
    assert image_bytes(*form([("image", data) for data in images]), max_images=4) == images


@given(st.lists(SOME_BYTES, min_size=1, max_size=4))
def test_json_gives_back_the_bytes_that_went_in(images: list[bytes]) -> None:
    """Base64 in JSON is for clients that cannot send bytes."""
    texts = [base64.b64encode(data).decode() for data in images]
    assert image_bytes(json.dumps({"images": texts}).encode(), "application/json", max_images=4) == images
    assert image_bytes(json.dumps({"image": texts[0]}).encode(), "application/json") == images[:1]


@given(SOME_BYTES, st.sampled_from(["", "image/png", "text/plain", "application/x-www-form-urlencoded", ";"]))
def test_any_other_content_type_is_raw(data: bytes, content_type: str) -> None:
    """What a client calls its bytes decides nothing, and they are not copied."""
    (image,) = image_bytes(data, content_type)
    assert image is data


@given(
    data=st.binary(max_size=400),
    kind=st.sampled_from(["application/json", "multipart/form-data; boundary=b", "multipart/form-data; boundary="]),
)
def test_no_bytes_break_the_reader(data: bytes, kind: str) -> None:
    """Hostile bodies end in the client's errors."""
    with pytest.raises((EmptyBody, MalformedRequest)):
        image_bytes(data, kind)


NO_BASE64 = st.text("!?ü")


@given(
    st.recursive(st.none() | st.booleans() | st.integers() | NO_BASE64, lambda inner: st.lists(inner) | named(inner))
)
def test_json_of_another_shape_is_refused(value: object) -> None:
    """Numbers for images, lists in lists, both fields at once: none is guessed at."""
    for fields in (value, {"images": value}, {"image": value}, {"image": "eA==", "images": ["eA=="]}):
        with pytest.raises((EmptyBody, MalformedRequest, RequestTooLarge)):
            image_bytes(json.dumps(fields).encode(), "application/json")


def test_too_many_images_are_refused_by_number() -> None:
    """The limit bounds what a request can cost."""
    texts = ["eA=="] * 4
    with pytest.raises(RequestTooLarge, match="4 images; the limit is 3"):
        image_bytes(json.dumps({"images": texts}).encode(), "application/json", max_images=3)
    with pytest.raises(RequestTooLarge, match="more than 3 fields 'image'"):
        image_bytes(*form([("image", b"x")] * 4), max_images=3)


def test_an_image_that_is_missing_or_no_base64_is_named_by_its_place() -> None:
    """Of many images the client wants to know which."""
    with pytest.raises(MalformedRequest, match="image 2 of 3 is no base64"):
        image_bytes(b'{"images": ["eA==", "!", "eA=="]}', "application/json", max_images=3)
    with pytest.raises(EmptyBody, match="image 3 of 3 has 0 bytes"):
        image_bytes(b'{"images": ["eA==", "eA==", ""]}', "application/json", max_images=3)


def test_an_empty_field_is_an_empty_body() -> None:
    """`curl -F image=@/dev/null` says what an empty body says."""
    with pytest.raises(EmptyBody):
        image_bytes(*form([("image", b"")]))


def test_an_upload_is_the_body_or_the_fields_of_a_form() -> None:
    """The signature travels beside the bundle, where there is one."""
    assert read_upload(b"bundle", "", 10) == Upload(b"bundle", None)
    assert read_upload(*form([("bundle", b"bundle")]), 10) == Upload(b"bundle", None)
    assert read_upload(*form([("signature", b"sig"), ("bundle", b"bundle")]), 10) == Upload(b"bundle", b"sig")
    with pytest.raises(RequestTooLarge, match="6 bytes; the limit is 5"):
        read_upload(b"bundle", "", 5)
    with pytest.raises(EmptyBody):
        read_upload(*form([("bundle", b"")]), 10)
    with pytest.raises(MalformedRequest, match="no field 'bundle'"):
        read_upload(*form([("signature", b"sig")]), 10)
