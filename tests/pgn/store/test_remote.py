"""A bucket's index is changed by compare-and-swap: nobody's change is lost, and none is made twice."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from pgn.errors import (
    BackboneInvalid,
    BundleInvalid,
    IndexInvalid,
    PgnError,
    StoreRefused,
    StoreUnavailable,
    VersionConflict,
)
from pgn.index import INDEX_FILE, KEPT_VERSIONS
from pgn.settings import Settings
from pgn.store import s3 as s3_module
from pgn.store.publish import open_publisher
from pgn.store.remote import RemoteStore, bundle_key, open_remote
from tests.s3 import BUCKET, answer

MakeSettings = Callable[..., Settings]
MakeBundle = Callable[..., Path]


def handle(store: RemoteStore, operation: str, handler: Callable[[Any], Any]) -> None:
    """Call `handler` with every request of this operation before it is sent; an answer of its own goes in its place."""
    store.bucket._client.meta.events.register(f"before-send.s3.{operation}", lambda request, **_: handler(request))


def served(store: RemoteStore, dataset: str = "digits") -> str:
    return store.index().main_version(dataset)[:16]


def version(path: Path) -> str:
    return path.name.split(".")[1]


def test_eight_publishers_at_once_lose_nothing(
    bucket_store: RemoteStore, settings: MakeSettings, bundle: MakeBundle
) -> None:
    """Each has a client of its own, as eight machines would; every entry is in the last index, each in its revision."""
    names = [f"set-{number}" for number in range(8)]
    paths = [bundle(name) for name in names]
    start = threading.Barrier(8)

    def publish(path: Path) -> int:
        store = open_remote(settings())
        start.wait(30)
        return store.publish(path)[1].revision

    with ThreadPoolExecutor(8) as pool:
        revisions = list(pool.map(publish, paths))
    assert sorted(revisions) == list(range(1, 9))
    assert sorted(bucket_store.index().datasets) == names
    assert bucket_store.index().revision == 8


def test_one_client_serves_many_threads(bucket_store: RemoteStore, bundle: MakeBundle) -> None:
    """A gateway publishes from its pool of threads."""
    paths = [bundle(f"set-{number}") for number in range(4)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(bucket_store.publish, paths))
    assert len(bucket_store.index().datasets) == 4


def test_a_lost_answer_is_not_a_lost_race(bucket_store: RemoteStore, bundle: MakeBundle) -> None:
    """The index was replaced and the answer got lost: going back once more would go back twice."""
    for seed in range(3):
        bucket_store.publish(bundle("digits", seed))
    lost = []

    def lose(request: Any) -> Any:
        if request.url.endswith(INDEX_FILE) and not lost:
            lost.append(request)
            other = open_remote(Settings(remote=bucket_store.bucket.url()))
            data = bytes(request.body) if isinstance(request.body, (bytes, bytearray)) else request.body.read()
            other.bucket.overwrite(INDEX_FILE, data)
            return answer(503, "InternalError")
        return None

    handle(bucket_store, "PutObject", lose)
    index = bucket_store.rollback("digits")
    assert len(lost) == 1
    assert index == bucket_store.index()
    assert (index.revision, served(bucket_store)) == (4, version(bundle("digits", 1)))


def test_a_conflict_is_tried_again(bucket_store: RemoteStore, bundle: MakeBundle) -> None:
    """S3 answers 409 where two conditional writes meet, and means: once more."""
    answers = [answer(409, "ConditionalRequestConflict"), answer(409, "ConditionalRequestConflict")]
    handle(
        bucket_store,
        "PutObject",
        lambda request: answers.pop() if answers and request.url.endswith(INDEX_FILE) else None,
    )
    assert bucket_store.publish(bundle("digits"))[1].revision == 1
    assert not answers


def test_two_who_go_back_at_once_go_back_once(bucket_store: RemoteStore, bundle: MakeBundle) -> None:
    """Both saw the same bad version; neither wants the one before the last."""
    for seed in range(3):
        bucket_store.publish(bundle("digits", seed))
    other = open_remote(Settings(remote=bucket_store.bucket.url()))
    once = []

    def meanwhile(request: Any) -> None:
        if request.url.endswith(INDEX_FILE) and not once:
            once.append(other.rollback("digits"))

    handle(bucket_store, "PutObject", meanwhile)
    assert bucket_store.rollback("digits") == once[0]
    assert served(bucket_store) == version(bundle("digits", 1))


def test_going_back_from_what_nobody_has_seen_is_refused(bucket_store: RemoteStore, bundle: MakeBundle) -> None:
    """While we took the bad version back, somebody published a good one: that is not to be undone unseen."""
    for seed in range(2):
        bucket_store.publish(bundle("digits", seed))
    other = open_remote(Settings(remote=bucket_store.bucket.url()))
    once = []

    def meanwhile(request: Any) -> None:
        if request.url.endswith(INDEX_FILE) and not once:
            once.append(other.publish(bundle("digits", 5)))

    handle(bucket_store, "PutObject", meanwhile)
    with pytest.raises(VersionConflict, match="changed by somebody else"):
        bucket_store.rollback("digits")
    assert served(bucket_store) == version(bundle("digits", 5))


def test_an_index_that_never_holds_still_ends_the_tries(
    bucket_store: RemoteStore, bundle: MakeBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is tried for ever."""
    monkeypatch.setattr("pgn.store.remote._TRIES", 3)
    handle(
        bucket_store,
        "PutObject",
        lambda request: answer(412, "PreconditionFailed") if request.url.endswith(INDEX_FILE) else None,
    )
    with pytest.raises(StoreUnavailable, match="changed by others 3 times"):
        bucket_store.publish(bundle("digits"))


def test_a_version_that_comes_back_while_it_is_deleted_is_there(bucket_store: RemoteStore, bundle: MakeBundle) -> None:
    """One change drops a version, another publishes it anew at the same moment: the index never names a gap."""
    for seed in range(KEPT_VERSIONS + 1):
        bucket_store.publish(bundle("digits", seed))
    other = open_remote(Settings(remote=bucket_store.bucket.url()))
    once = []

    def meanwhile(request: Any) -> None:
        if bundle("digits", 0).name in request.url and not once:
            once.append(other.publish(bundle("digits", 0)))

    handle(bucket_store, "DeleteObject", meanwhile)
    bucket_store.publish(bundle("digits", KEPT_VERSIONS + 1))
    assert once
    index = bucket_store.index()
    assert index.main_version("digits")[:16] == version(bundle("digits", 0))
    for dataset, digest in index.kept():
        assert bucket_store.bucket.size(bundle_key(dataset, digest)), digest


def test_what_cannot_be_deleted_does_not_undo_the_change(
    bucket_store: RemoteStore, bundle: MakeBundle, caplog: pytest.LogCaptureFixture
) -> None:
    """The index is what counts; a policy may well forbid to delete."""
    bucket_store.publish(bundle("digits"))
    handle(bucket_store, "DeleteObject", lambda _: answer(403, "AccessDenied"))
    with caplog.at_level(logging.WARNING):
        bucket_store.remove("digits")
    assert bucket_store.index().datasets == {}
    assert "could not be deleted" in caplog.text


def test_a_reader_cannot_publish(
    bucket_store: RemoteStore, bundle: MakeBundle, act_as: Callable[[str], None], settings: MakeSettings
) -> None:
    """Rights are the bucket's to give; the refusal is one line that names the place."""
    bucket_store.publish(bundle("digits"))
    act_as("ro")
    reader = open_publisher(settings())
    assert set(reader.index().datasets) == {"digits"}
    with pytest.raises(StoreRefused, match=rf"s3://{BUCKET}/.*letters.* may not be used \(AccessDenied"):
        reader.publish(bundle("letters"))
    with pytest.raises(StoreRefused, match=r"index\.json may not be used"):
        reader.remove("digits")


def no_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")


def as_admin(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only those with rights on all buckets are told that one does not exist."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "admin-key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "admin-secret")


@pytest.mark.parametrize(
    ("spoil", "remote", "error", "says"),
    [
        (no_credentials, None, StoreRefused, "no credentials for s3://"),
        (lambda patch: patch.setenv("AWS_SECRET_ACCESS_KEY", "x"), None, StoreRefused, "SignatureDoesNotMatch"),
        (lambda patch: patch.setenv("AWS_ACCESS_KEY_ID", "x"), None, StoreRefused, "InvalidAccessKeyId"),
        (lambda patch: patch.setenv("AWS_PROFILE", "nobody"), None, StoreRefused, "nobody"),
        (
            lambda patch: patch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9"),
            None,
            StoreUnavailable,
            "cannot be reached: .*127.0.0.1:9",
        ),
        (as_admin, "s3://no-such-bucket/x", StoreRefused, "the bucket of s3://no-such-bucket/x/index.json"),
        (lambda patch: None, "s3://no-such-bucket/x", StoreRefused, "may not be used"),
        (lambda patch: None, "s3://B/x", StoreRefused, "s3://B/x/index.json"),
        (lambda patch: None, f"s3://{BUCKET}/nothing/here", IndexInvalid, "nothing/here/index.json does not exist"),
    ],
    ids=[
        "no-credentials",
        "wrong-secret",
        "unknown-key",
        "profile",
        "away",
        "no-bucket",
        "hidden",
        "bad-name",
        "no-prefix",
    ],
)
def test_every_wrong_setting_is_one_line(
    prefix: str,
    settings: MakeSettings,
    monkeypatch: pytest.MonkeyPatch,
    spoil: Callable[[pytest.MonkeyPatch], None],
    remote: str | None,
    error: type[PgnError],
    says: str,
) -> None:
    """An operator reads what to change: credentials, rights, endpoint, bucket, prefix."""
    monkeypatch.setattr(
        s3_module, "_CONFIG", s3_module._CONFIG.merge(s3_module.Config(retries={"total_max_attempts": 1}))
    )
    spoil(monkeypatch)
    with pytest.raises(error, match=says) as refusal:
        open_publisher(settings(**({"remote": remote} if remote else {}))).index()
    assert "\n" not in str(refusal.value)
    assert refusal.value.hint


@pytest.mark.parametrize(
    ("status", "code", "error", "says"),
    [
        (301, "PermanentRedirect", StoreRefused, "another region"),
        (400, "AuthorizationHeaderMalformed", StoreRefused, "another region than eu-north-1"),
        (503, "SlowDown", StoreUnavailable, "does not answer now"),
        (500, "InternalError", StoreUnavailable, "does not answer now"),
        (501, "NotImplemented", StoreRefused, "cannot do this"),
        (400, "InvalidRequest", StoreRefused, "refuses the request"),
    ],
)
def test_what_the_server_says_decides_whether_to_try_again(
    bucket_store: RemoteStore, monkeypatch: pytest.MonkeyPatch, status: int, code: str, error: Any, says: str
) -> None:
    """A wrong region never mends itself; an overloaded store does."""
    monkeypatch.setenv("AWS_REGION", "eu-north-1")
    monkeypatch.setattr("botocore.retries.standard.ExponentialBackoff.delay_amount", lambda *_: 0)
    handle(bucket_store, "GetObject", lambda _: answer(status, code))
    with pytest.raises(error, match=says) as refusal:
        bucket_store.index()
    assert refusal.value.retryable == (error is StoreUnavailable)


def test_the_first_bundle_needs_the_backbone_in_the_bucket(settings: MakeSettings, bundle: MakeBundle) -> None:
    """Servers fetch both from there; the hint has the command."""
    with pytest.raises(BackboneInvalid, match="holds no backbone") as refusal:
        open_publisher(settings()).publish(bundle("digits"))
    assert "pgn backbone publish toy" in refusal.value.hint


def test_a_damaged_index_is_not_replaced(bucket_store: RemoteStore, bundle: MakeBundle) -> None:
    """Starting afresh over it would forget every data set that it named."""
    bucket_store.bucket.overwrite(INDEX_FILE, b"{")
    with pytest.raises(IndexInvalid, match=r"s3://.*index\.json: index: Invalid JSON"):
        bucket_store.publish(bundle("digits"))
    assert bucket_store.bucket.read(INDEX_FILE, max_bytes=10).data == b"{"


def test_a_bundle_larger_than_allowed_is_neither_read_nor_published(
    bucket_store: RemoteStore, bundle: MakeBundle
) -> None:
    """A bucket is not one's own memory; and servers would refuse it."""
    opened, _ = bucket_store.publish(bundle("digits"))
    small = RemoteStore(bucket_store.bucket, max_bundle_bytes=100)
    with pytest.raises(PgnError, match="100 are allowed"):
        small.fetch("digits", opened.digest)
    with pytest.raises(BundleInvalid, match="servers take 100"):
        small.publish(bundle("letters"))


def test_a_store_that_ignores_conditions_is_refused(bucket_store: RemoteStore, bundle: MakeBundle) -> None:
    """Some take conditional writes and overwrite all the same: that shows when the index is made, not too late."""
    bucket_store.bucket._client.meta.events.register(
        "before-parameter-build.s3.PutObject", lambda params, **_: params.pop("IfNoneMatch", None) and None
    )
    with pytest.raises(StoreRefused, match="ignores conditions"):
        bucket_store.publish(bundle("digits"))
