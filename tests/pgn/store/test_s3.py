"""Large files go over in parts, and what broke off goes on; everything else of the bucket is told in test_remote.py."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import EndpointConnectionError

from pgn.errors import StoreUnavailable
from pgn.store import s3 as s3_module
from pgn.store.s3 import Absent, Bucket, Changed, Unchanged
from tests.s3 import BUCKET, RunningS3, answer, cutting_proxy

PART = 5 * 2**20  # S3's least


@pytest.fixture
def bucket(prefix: str, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    """An empty prefix, asked without boto3's own second attempts."""
    once = s3_module.Config(retries={"total_max_attempts": 1})
    monkeypatch.setattr(s3_module, "_CONFIG", s3_module._CONFIG.merge(once))
    return Bucket.open(f"s3://{BUCKET}/{prefix}", part_bytes=PART)


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four parts, the last one short."""
    path = tmp_path_factory.mktemp("large") / "model.safetensors"
    path.write_bytes(random.Random(0).randbytes(3 * PART + 1000))
    return path


def on(bucket: Bucket, operation: str, handler: Callable[[Any], Any]) -> None:
    bucket._client.meta.events.register(f"before-send.s3.{operation}", lambda request, **_: handler(request))


def test_an_object_is_created_once(bucket: Bucket) -> None:
    """Immutable means that nobody can put another in its place by accident."""
    bucket.create("a", b"one")
    with pytest.raises(Changed):
        bucket.create("a", b"two")
    assert bucket.read("a", max_bytes=10).data == b"one"


def test_an_object_is_replaced_by_those_who_have_seen_it(bucket: Bucket) -> None:
    """The etag says what was seen; whoever comes second has to look again."""
    bucket.create("a", b"one")
    seen = bucket.read("a", max_bytes=10)
    bucket.replace("a", b"two", seen.etag)
    with pytest.raises(Changed):
        bucket.replace("a", b"three", seen.etag)
    with pytest.raises(Unchanged):
        bucket.read("a", max_bytes=10, unless=bucket.read("a", max_bytes=10).etag)


def test_an_object_that_is_gone_is_not_replaced(bucket: Bucket) -> None:
    """S3 answers 404 then, some stores 412; both mean that it is not what was seen."""
    bucket.create("a", b"one")
    seen = bucket.read("a", max_bytes=10)
    bucket.delete("a")
    with pytest.raises(Changed):
        bucket.replace("a", b"two", seen.etag)
    on(bucket, "PutObject", lambda _: answer(404, "NoSuchKey"))
    with pytest.raises(Changed):
        bucket.replace("a", b"two", seen.etag)


def test_an_upload_that_was_ended_meanwhile_can_be_tried_again(bucket: Bucket, large: Path) -> None:
    """A lifecycle rule removes unfinished parts; the next call begins anew."""
    on(bucket, "UploadPart", lambda _: answer(404, "NoSuchUpload"))
    with pytest.raises(StoreUnavailable, match="NoSuchUpload"):
        bucket.upload(large, "large", lambda _: None)
    assert Bucket.open(bucket.url(), part_bytes=PART).upload(large, "large", lambda _: None)


def test_what_is_not_there_is_absent(bucket: Bucket, tmp_path: Path) -> None:
    """To read it, to ask its size, to fetch it; to delete it is fine."""
    with pytest.raises(Absent):
        bucket.read("a", max_bytes=10)
    with pytest.raises(Absent):
        bucket.download("a", tmp_path / "a", lambda _: None)
    assert bucket.size("a") is None
    bucket.delete("a")


def test_a_listing_is_of_ones_own_prefix(bucket: Bucket) -> None:
    """`models` and `models-old` are two deployments."""
    for key in ("x/a", "x/b/c", "y"):
        bucket.create(key, b"12")
    assert bucket.sizes("x") == {"x/a": 2, "x/b/c": 2}


def test_a_prefix_may_be_empty_or_end_in_a_slash(prefix: str) -> None:
    """s3://bucket/ and s3://bucket/a/ are what people write."""
    assert Bucket.open(f"s3://{BUCKET}/", part_bytes=PART).url("index.json") == f"s3://{BUCKET}/index.json"
    assert Bucket.open(f"s3://{BUCKET}/a/b/", part_bytes=PART).url("x") == f"s3://{BUCKET}/a/b/x"


def test_a_large_file_goes_up_in_parts_and_comes_back(bucket: Bucket, large: Path, tmp_path: Path) -> None:
    """The bar sees every byte, and a second call sends nothing."""
    up: list[int] = []
    down: list[int] = []
    assert bucket.upload(large, "large", up.append)
    bucket.download("large", tmp_path / "back", down.append)
    assert (tmp_path / "back").read_bytes() == large.read_bytes()
    assert sum(up) == sum(down) == large.stat().st_size
    assert len(up) == 4
    assert not bucket.upload(large, "large", up.append)
    assert len(up) == 4


def test_an_upload_that_broke_off_sends_the_rest_alone(bucket: Bucket, large: Path) -> None:
    """350 MB over a bad line arrive some time; what is in the bucket is whole or not there."""
    sent = []

    def break_off(request: Any) -> None:
        sent.append(request.url)
        if "partNumber=3" in request.url:
            raise EndpointConnectionError(endpoint_url=request.url)

    on(bucket, "UploadPart", break_off)
    with pytest.raises(StoreUnavailable, match="cannot be reached"):
        bucket.upload(large, "large", lambda _: None)
    assert bucket.size("large") is None
    assert len(sent) == 4

    again = Bucket.open(bucket.url(), part_bytes=PART)
    sent_again: list[str] = []
    on(again, "UploadPart", lambda request: sent_again.append(request.url))
    assert again.upload(large, "large", lambda _: None)
    assert ["partNumber=3" in url for url in sent_again] == [True]
    assert again.read("large", max_bytes=10**9).data == large.read_bytes()


def test_parts_of_another_file_are_not_taken_for_ones_own(bucket: Bucket, large: Path, tmp_path: Path) -> None:
    """Somebody began with other bytes under this key: each part is compared before it counts as sent."""
    other = tmp_path / "other"
    other.write_bytes(bytes(large.stat().st_size))

    def break_off(request: Any) -> None:
        if "partNumber=4" in request.url:
            raise EndpointConnectionError(endpoint_url=request.url)

    on(bucket, "UploadPart", break_off)
    with pytest.raises(StoreUnavailable):
        bucket.upload(other, "large", lambda _: None)
    again = Bucket.open(bucket.url(), part_bytes=PART)
    assert again.upload(large, "large", lambda _: None)
    assert again.read("large", max_bytes=10**9).data == large.read_bytes()


def test_two_who_send_the_same_file_both_succeed(bucket: Bucket, large: Path) -> None:
    """One of them finds it there when it has done."""
    other = Bucket.open(bucket.url(), part_bytes=PART)
    once: list[bool] = []

    def meanwhile(_: Any) -> None:
        if not once:
            once.append(True)
            other.create("large", large.read_bytes())

    on(bucket, "CompleteMultipartUpload", meanwhile)
    assert not bucket.upload(large, "large", lambda _: None)
    assert bucket.size("large") == large.stat().st_size


def test_a_download_goes_on_as_long_as_something_comes(
    s3: RunningS3, bucket: Bucket, large: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A line that cuts every answer still brings the file; one that brings nothing is given up."""
    bucket.upload(large, "large", lambda _: None)
    with cutting_proxy(s3.endpoint, "large", after_bytes=4 * 2**20) as address:
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        Bucket.open(bucket.url(), part_bytes=PART).download("large", tmp_path / "back", lambda _: None)
    assert (tmp_path / "back").read_bytes() == large.read_bytes()
    with cutting_proxy(s3.endpoint, "large", after_bytes=0) as address:
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        with pytest.raises(StoreUnavailable):
            Bucket.open(bucket.url(), part_bytes=PART).download("large", tmp_path / "none", lambda _: None)


@pytest.mark.parametrize(
    ("endpoint", "style", "url"),
    [
        ("http://s3.example.org", "", "http://s3.example.org/bucket/a"),
        ("http://s3.example.org", "virtual", "http://bucket.s3.example.org/a"),
        ("", "", "https://bucket.s3.amazonaws.com/a"),
        ("", "path", "https://s3.eu-west-1.amazonaws.com/bucket/a"),
    ],
)
def test_a_store_of_ones_own_is_addressed_by_path(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, endpoint: str, style: str, url: str
) -> None:
    """A bucket's name before its host is in Amazon's DNS; the profile can choose otherwise."""
    chosen = f"s3 =\n  addressing_style = {style}\n" if style else ""
    (tmp_path / "config").write_text(f"[default]\nregion = eu-west-1\n{chosen}")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    bucket = Bucket.open("s3://bucket", part_bytes=PART)
    signed = bucket._client.generate_presigned_url("get_object", Params=bucket._where("a"))
    assert signed.split("?")[0] == url
