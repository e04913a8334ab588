"""Folder or bucket, a publisher keeps the same promises: every test here runs on both."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from pgn.errors import (
    BackboneInvalid,
    BundleCorrupt,
    BundleIncompatible,
    BundleInvalid,
    BundleMissing,
    IndexInvalid,
    MalformedRequest,
    UnknownDataset,
    VersionConflict,
)
from pgn.index import KEPT_VERSIONS, MAX_SIDE_BY_SIDE, Index
from pgn.settings import Settings
from pgn.store.local import LocalStore
from pgn.store.publish import Publisher, open_publisher
from pgn.store.remote import RemoteStore, bundle_key
from tests.toys import make_bundle

Bundle = Callable[..., Path]


@pytest.fixture(params=["folder", "bucket"])
def publisher(request: pytest.FixtureRequest, toys: LocalStore, tmp_path: Path) -> Publisher:
    """A store that holds the toys' backbone and serves nothing yet."""
    if request.param == "bucket":
        return request.getfixturevalue("bucket_store")
    shutil.copytree(toys.root / "backbones", tmp_path / "own" / "backbones")
    return open_publisher(Settings(store=tmp_path / "own"))


def files(publisher: Publisher) -> set[str]:
    """The bundles that lie in the store."""
    if isinstance(publisher, LocalStore):
        return {path.name for path in publisher.root.glob("datasets/*/*")}
    assert isinstance(publisher, RemoteStore)
    return {key.rpartition("/")[2] for key in publisher.bucket.sizes("datasets")}


def spoil(publisher: Publisher, dataset: str, digest: str) -> None:
    """Other bytes where a bundle lies."""
    if isinstance(publisher, LocalStore):
        publisher.bundle_path(dataset, digest).write_bytes(b"other")
    else:
        assert isinstance(publisher, RemoteStore)
        publisher.bucket.overwrite(bundle_key(dataset, digest), b"other")


def shares(index: Index, dataset: str = "digits") -> list[float]:
    return [version.share for version in index.datasets[dataset].versions]


def test_what_is_published_is_served(publisher: Publisher, bundle: Bundle) -> None:
    """The answer comes with the index that names it, and its file lies there."""
    opened, index = publisher.publish(bundle("digits"))
    assert index == publisher.index()
    assert (index.revision, index.main_version("digits")) == (1, opened.digest)
    assert files(publisher) == {bundle("digits").name}


def test_bytes_do_as_well_as_a_file(publisher: Publisher, bundle: Bundle) -> None:
    """An upload has no file."""
    opened, _ = publisher.publish(bundle("digits").read_bytes(), dataset="digits")
    assert opened.manifest.dataset == "digits"
    assert files(publisher) == {bundle("digits").name}


def test_publishing_again_changes_nothing(publisher: Publisher, bundle: Bundle) -> None:
    """Whoever has lost the answer may simply ask once more."""
    publisher.publish(bundle("digits"))
    publisher.publish(bundle("digits", 1), share=0.3)
    before = publisher.index()
    _, after = publisher.publish(bundle("digits", 1), share=0.3)
    assert after == before == publisher.index()


def test_publishing_again_mends_a_damaged_file(publisher: Publisher, bundle: Bundle) -> None:
    """And the revision grows, so that those who refused it look again."""
    opened, before = publisher.publish(bundle("digits"))
    spoil(publisher, "digits", opened.digest)
    _, after = publisher.publish(bundle("digits"))
    assert (after.revision, after.datasets) == (before.revision + 1, before.datasets)
    assert publisher.publish(bundle("digits"))[1] == after


def test_a_share_puts_a_version_beside_the_others(publisher: Publisher, bundle: Bundle) -> None:
    """A new version proves itself on a part of the traffic; then it takes all."""
    publisher.publish(bundle("digits"))
    new, index = publisher.publish(bundle("digits", 1), share=0.25)
    assert shares(index) == [0.25, 0.75]
    _, index = publisher.publish(bundle("digits", 1))
    assert index.main_version("digits") == new.digest
    assert shares(index) == [1.0]


def test_a_rollback_brings_the_last_one_back(publisher: Publisher, bundle: Bundle) -> None:
    """Its file is still there, and the one that was taken back is gone for good."""
    publisher.publish(bundle("digits"))
    publisher.publish(bundle("digits", 1))
    index = publisher.rollback("digits")
    assert index == publisher.index()
    assert bundle("digits").name.split(".")[1] == index.main_version("digits")[:16]
    assert files(publisher) == {bundle("digits").name}


def test_there_is_nothing_before_the_first(publisher: Publisher, bundle: Bundle) -> None:
    """To serve nothing is what `remove` is for."""
    publisher.publish(bundle("digits"))
    with pytest.raises(VersionConflict, match="no version to go back to"):
        publisher.rollback("digits")


def test_a_removed_data_set_leaves_nothing(publisher: Publisher, bundle: Bundle) -> None:
    """Neither a name nor a file; its neighbours stay."""
    for seed in range(3):
        publisher.publish(bundle("digits", seed))
    publisher.publish(bundle("letters"))
    assert set(publisher.remove("digits").datasets) == {"letters"}
    assert files(publisher) == {bundle("letters").name}


def test_the_file_goes_with_the_last_use_of_it(publisher: Publisher, bundle: Bundle) -> None:
    """Five versions can be gone back to; a store does not grow with every training."""
    for seed in range(KEPT_VERSIONS + 3):
        publisher.publish(bundle("digits", seed))
    assert files(publisher) == {bundle("digits", seed).name for seed in range(2, KEPT_VERSIONS + 3)}


@pytest.mark.parametrize("act", ["remove", "rollback"])
def test_a_name_that_is_not_served_is_told(publisher: Publisher, bundle: Bundle, act: str) -> None:
    """With the near ones: it is a slip of the keyboard most of the time."""
    publisher.publish(bundle("digits"))
    with pytest.raises(UnknownDataset, match="near names: digits"):
        getattr(publisher, act)("digit")


@pytest.mark.parametrize(
    "act", [lambda store: store.index(), lambda store: store.remove("x"), lambda store: store.rollback("x")]
)
def test_an_empty_store_says_so(publisher: Publisher, act: Callable[[Publisher], object]) -> None:
    """Most likely the path or the prefix is wrong."""
    with pytest.raises(IndexInvalid, match=r"index\.json"):
        act(publisher)


def test_a_bundle_of_another_backbone_is_not_taken(publisher: Publisher, bundle: Bundle, tmp_path: Path) -> None:
    """A store serves one ViT; nothing of the refused bundle stays."""
    publisher.publish(bundle("digits"))
    with pytest.raises(BundleIncompatible, match="cdcdcdcdcdcdcdcd"):
        publisher.publish(make_bundle(tmp_path, "pets", "cd" * 32))
    assert (publisher.index().revision, len(files(publisher))) == (1, 1)


def test_the_first_bundle_needs_its_backbone(publisher: Publisher, tmp_path: Path) -> None:
    """Without the ViT it could never answer."""
    with pytest.raises(BackboneInvalid, match="holds no backbone cdcdcd"):
        publisher.publish(make_bundle(tmp_path, "pets", "cd" * 32))


@pytest.mark.parametrize(
    "spoil",
    [lambda data: data[:-1], lambda data: data[:20], lambda data: b"", lambda data: b"\xff" * 100],
    ids=["cut", "stump", "empty", "noise"],
)
def test_bytes_that_are_no_bundle_leave_no_trace(
    publisher: Publisher, bundle: Bundle, spoil: Callable[[bytes], bytes]
) -> None:
    """An upload is data from outside."""
    with pytest.raises(BundleInvalid):
        publisher.publish(spoil(bundle("digits").read_bytes()))
    assert files(publisher) == set()


def test_a_manifest_cannot_name_a_path(publisher: Publisher, bundle: Bundle) -> None:
    """The name of a data set becomes a folder and a key."""
    data = bundle("digits").read_bytes().replace(b'\\"dataset\\":\\"digits\\"', b'\\"dataset\\":\\"../../\\"')
    assert b"../../" in data
    with pytest.raises(BundleInvalid, match=r"names the data set '\.\./\.\./'"):
        publisher.publish(data)
    assert files(publisher) == set()


def test_a_file_that_is_not_what_its_name_says(publisher: Publisher, bundle: Bundle, tmp_path: Path) -> None:
    """Damaged, renamed or not there: each is told apart."""
    damaged = tmp_path / bundle("digits").name
    damaged.write_bytes(bundle("digits").read_bytes()[:-1])
    for path, error in [
        (damaged, BundleCorrupt),
        (shutil.copy(bundle("digits"), tmp_path / "mine.safetensors"), BundleInvalid),
        (tmp_path / "none.0123456789abcdef.safetensors", BundleMissing),
    ]:
        with pytest.raises(error):
            publisher.publish(path)


def test_a_bundle_is_served_under_its_own_name(publisher: Publisher, bundle: Bundle) -> None:
    """PUT to pets with the bundle of digits is a mistake."""
    with pytest.raises(BundleInvalid, match="of the data set 'digits', not of 'pets'"):
        publisher.publish(bundle("digits").read_bytes(), dataset="pets")


@pytest.mark.parametrize("share", [0, -0.5, 1.5, float("nan")])
def test_a_share_is_a_part(publisher: Publisher, bundle: Bundle, share: float) -> None:
    """And it is looked at before anything is written."""
    with pytest.raises(MalformedRequest, match="not over 0 and at most 1"):
        publisher.publish(bundle("digits"), share=share)


def test_versions_side_by_side_are_few(publisher: Publisher, bundle: Bundle) -> None:
    """Each of them costs memory on every server."""
    for seed in range(MAX_SIDE_BY_SIDE):
        publisher.publish(bundle("digits", seed), share=0.5)
    with pytest.raises(VersionConflict, match="4 versions side by side"):
        publisher.publish(bundle("digits", 9), share=0.5)
    assert len(files(publisher)) == MAX_SIDE_BY_SIDE
