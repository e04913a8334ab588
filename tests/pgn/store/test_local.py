"""A model store in a folder serves what its index names, verified, and takes in nothing that does not fit."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pgn.errors import (
    BackboneInvalid,
    BundleCorrupt,
    BundleIncompatible,
    BundleInvalid,
    BundleMissing,
    DiskFull,
    IndexInvalid,
    StoreReadOnly,
)
from pgn.index import read_index
from pgn.store.local import LocalStore
from tests.toys import make_backbone, make_bundle, make_store


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with two data sets, made once."""
    return make_store(tmp_path_factory.mktemp("store") / "store", ["digits", "letters"]).root


@pytest.fixture
def store(original: Path, tmp_path: Path) -> LocalStore:
    """A copy of that store, for one test to spoil."""
    return LocalStore(shutil.copytree(original, tmp_path / "store"))


def served(store: LocalStore, dataset: str) -> str:
    return read_index(store.root).datasets[dataset].versions[0].digest


def test_what_was_added_is_served(store):
    """Two `add`s, two revisions, two bundles that open."""
    index = read_index(store.root)
    assert (index.revision, sorted(index.datasets)) == (2, ["digits", "letters"])
    for name in index.datasets:
        assert store.read(name, served(store, name), backbone=index.backbone).manifest.dataset == name


def test_a_bundle_lies_under_its_data_set(store):
    """The layout is part of the contract: an object store will have the same keys."""
    digest = served(store, "digits")
    path = store.bundle_path("digits", digest)
    assert path == store.root / "datasets" / "digits" / f"digits.{digest[:16]}.safetensors"
    assert path.is_file()


def test_the_backbone_is_found_by_its_digest(store):
    """Folders may have any name; the digest decides."""
    folder = (store.root / "backbones" / "toy").rename(store.root / "backbones" / "renamed")
    assert store.backbone_folder(read_index(store.root).backbone) == folder


def test_a_damaged_spare_backbone_hides_nothing(store):
    """One bad file never takes down what does not need it."""
    make_backbone(store.root / "backbones" / "spare", seed=1)
    (store.root / "backbones" / "spare" / "backbone.json").write_text("{")
    assert store.backbone_folder(read_index(store.root).backbone).name == "toy"


def test_an_unknown_backbone_names_what_there_is(store):
    """The operator sees whether the folder is missing or another."""
    with pytest.raises(BackboneInvalid, match=r"no backbone cdcdcdcdcdcdcdcd…; it holds toy \("):
        store.backbone_folder("cd" * 32)


def test_an_empty_store_holds_no_backbone(tmp_path):
    """The first thing that goes wrong on a new machine has a message of its own."""
    with pytest.raises(BackboneInvalid, match="it holds none"):
        LocalStore(tmp_path).backbone_folder("cd" * 32)


def test_a_newer_bundle_takes_over_and_the_old_one_stays(store, tmp_path):
    """Going back needs the old file."""
    before = read_index(store.root)
    path = make_bundle(tmp_path, "digits", before.backbone, seed=9)
    bundle, index = store.publish(path)
    assert index.revision == before.revision + 1
    assert served(store, "digits") == bundle.digest
    assert index.datasets["digits"].previous == (before.datasets["digits"].versions[0].digest,)
    assert store.bundle_path("digits", index.datasets["digits"].previous[0]).is_file()


def test_adding_copies_the_bytes(store, tmp_path):
    """The store does not depend on where a bundle was trained."""
    path = make_bundle(tmp_path, "digits", read_index(store.root).backbone, seed=9)
    data = path.read_bytes()
    bundle, _ = store.publish(path)
    path.unlink()
    assert store.bundle_path("digits", bundle.digest).read_bytes() == data


def test_a_bundle_for_another_backbone_is_not_taken_in(store, tmp_path):
    """A store serves one backbone, even if it holds two."""
    other = make_backbone(store.root / "backbones" / "other", seed=1, name="other")
    before = read_index(store.root)
    with pytest.raises(BundleIncompatible):
        store.publish(make_bundle(tmp_path, "digits", other))
    assert read_index(store.root) == before


def test_a_bundle_without_its_backbone_is_not_taken_in(store, tmp_path):
    """It could never answer."""
    (store.root / "index.json").unlink()
    with pytest.raises(BackboneInvalid, match="no backbone cdcdcd"):
        store.publish(make_bundle(tmp_path, "digits", "cd" * 32))
    assert not (store.root / "index.json").exists()


def test_a_damaged_bundle_is_not_taken_in(store, tmp_path):
    """What is refused leaves no trace in the index."""
    path = make_bundle(tmp_path, "digits", read_index(store.root).backbone, seed=9)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(BundleCorrupt):
        store.publish(path)
    assert read_index(store.root).revision == 2


def test_a_renamed_bundle_is_not_taken_in(store, tmp_path):
    """A store's names are promises about content."""
    path = make_bundle(tmp_path, "digits", read_index(store.root).backbone)
    with pytest.raises(BundleInvalid, match="is not named"):
        store.publish(path.rename(tmp_path / "mine.safetensors"))


def test_one_damaged_bundle_leaves_the_others_readable(store):
    """Data sets fail one by one."""
    index = read_index(store.root)
    path = store.bundle_path("digits", served(store, "digits"))
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(BundleCorrupt):
        store.read("digits", served(store, "digits"), backbone=index.backbone)
    assert store.read("letters", served(store, "letters"), backbone=index.backbone)


def test_a_missing_bundle_is_named(store):
    """The index is the truth; a file that it names and that is not there is a fault of its own."""
    digest = served(store, "digits")
    store.bundle_path("digits", digest).unlink()
    with pytest.raises(BundleMissing, match=digest[:16]):
        store.read("digits", digest, backbone=read_index(store.root).backbone)


def test_the_whole_digest_counts(store):
    """The file name shows 16 digits of 64; an index that differs in the others means another bundle."""
    digest = served(store, "digits")
    other = digest[:-1] + ("0" if digest[-1] != "0" else "1")
    with pytest.raises(BundleCorrupt, match="the index says"):
        store.read("digits", other, backbone=read_index(store.root).backbone)


def test_a_damaged_index_stops_an_addition(store, tmp_path):
    """Data sets that cannot be read may not be forgotten either."""
    path = make_bundle(tmp_path, "digits", read_index(store.root).backbone, seed=9)
    (store.root / "index.json").write_text("{")
    with pytest.raises(IndexInvalid):
        store.publish(path)
    assert (store.root / "index.json").read_text() == "{"


def test_a_full_disk_is_told_and_costs_nothing(store, tmp_path, monkeypatch):
    """The old version goes on, no half-written file is left, and the same command works once there is room."""
    before = read_index(store.root)
    path = make_bundle(tmp_path, "digits", before.backbone, seed=9)

    def no_room(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", no_room)
        with pytest.raises(DiskFull, match="no room in"):
            store.publish(path)
    assert read_index(store.root) == before
    assert len(list((store.root / "datasets" / "digits").iterdir())) == 1
    assert store.publish(path)[1].revision == before.revision + 1


def test_a_store_that_is_mounted_read_only_says_so(store, tmp_path, monkeypatch):
    """As the stores of replicas are that serve what their image holds; whoever publishes there learns where to."""
    path = make_bundle(tmp_path, "digits", read_index(store.root).backbone, seed=9)

    def refuse(*_, **__):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr("fcntl.flock", refuse)  # the first thing that a change does there
    with pytest.raises(StoreReadOnly, match="cannot be written: Read-only file system"):
        store.publish(path)


def test_what_cannot_be_deleted_does_not_undo_the_change(store, caplog):
    """The index is what counts."""
    lies = store.bundle_path("digits", served(store, "digits"))
    lies.unlink()
    lies.mkdir()  # unlink() fails on it
    store.remove("digits")
    assert set(read_index(store.root).datasets) == {"letters"}
    assert "cannot be deleted" in caplog.text


def test_removing_from_a_wrong_path_leaves_nothing_there(tmp_path):
    """A slip in --store makes no folder."""
    with pytest.raises(IndexInvalid, match="cannot be read"):
        LocalStore(tmp_path / "modle_store").remove("digits")
    assert list(tmp_path.iterdir()) == []


PUBLISHER = """
import sys, pathlib
from pgn.store.local import LocalStore
for path in sys.argv[2:]:
    LocalStore(pathlib.Path(sys.argv[1])).publish(pathlib.Path(path))
"""


def test_concurrent_publishers_lose_nothing(store, tmp_path):
    """Three shells at once: every entry is in the index, and every file that it names is there."""
    backbone = read_index(store.root).backbone
    paths = [[make_bundle(tmp_path, f"set-{i}-{j}", backbone) for j in range(4)] for i in range(3)]
    shells = [subprocess.Popen([sys.executable, "-c", PUBLISHER, store.root, *each]) for each in paths]
    assert [shell.wait(120) for shell in shells] == [0, 0, 0]
    index = read_index(store.root)
    assert (index.revision, len(index.datasets)) == (2 + 12, 2 + 12)
    for name in index.datasets:
        assert store.read(name, served(store, name), backbone=backbone)


def test_what_a_killed_writer_left_goes_some_time(store, tmp_path):
    """A half-written copy is nobody's; one of this minute may still be somebody's."""
    folder = store.root / "datasets" / "digits"
    old, young = folder / ".digits.0123456789abcdef.safetensors.1", folder / ".digits.0123456789abcdef.safetensors.2"
    for path in (old, young):
        path.write_bytes(b"half")
    os.utime(old, (1, 1))
    store.remove("letters")
    assert not old.exists()
    assert young.exists()
