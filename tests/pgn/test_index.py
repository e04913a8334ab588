"""The index is the only thing in a model store that changes, and it only grows."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from pgn.errors import IndexInvalid, UnknownDataset
from pgn.index import Entry, Index, Version, change_index, read_index, unknown_dataset

BACKBONE, A, B, C = ("ab" * 32, "a" * 64, "b" * 64, "c" * 64)
EMPTY = Index(revision=0, backbone=BACKBONE)


def test_reading_gives_what_was_written(tmp_path):
    """Served state is exactly what the index says."""
    index = change_index(tmp_path, lambda old: old.with_bundle("digits", A), new=EMPTY)
    assert read_index(tmp_path) == index
    assert index.datasets["digits"].versions == (Version(digest=A, share=1.0),)


def test_the_file_is_plain_json(tmp_path):
    """An operator can read it, and restore it by hand."""
    change_index(tmp_path, lambda old: old.with_bundle("digits", A), new=EMPTY)
    assert json.loads((tmp_path / "index.json").read_text()) == {
        "schema": 1,
        "revision": 1,
        "backbone": BACKBONE,
        "datasets": {"digits": {"versions": [{"digest": A, "share": 1.0}], "previous": []}},
    }


def test_the_revision_grows_with_every_bundle(tmp_path):
    """Who has seen revision 3 knows that 2 is old."""
    revisions = [
        change_index(tmp_path, lambda old, name=name: old.with_bundle(name, A), new=EMPTY).revision for name in "xyz"
    ]
    assert revisions == [1, 2, 3]
    assert set(read_index(tmp_path).datasets) == {"x", "y", "z"}


def test_a_revision_that_does_not_grow_is_refused(tmp_path):
    """Readers compare revisions; a change under the old number would go unseen."""
    change_index(tmp_path, lambda old: old.with_bundle("digits", A), new=EMPTY)
    with pytest.raises(IndexInvalid, match="revision 1 does not follow 1"):
        change_index(tmp_path, lambda old: old)
    assert read_index(tmp_path).revision == 1


def test_what_was_served_before_is_kept_newest_first():
    """A rollback needs to know where to; a bundle that comes back is no longer 'before'."""
    index = EMPTY.with_bundle("digits", A).with_bundle("digits", B).with_bundle("digits", C)
    assert index.datasets["digits"].previous == (B, A)
    assert index.with_bundle("digits", A).datasets["digits"].previous == (C, B)


def test_a_changed_data_set_leaves_the_others_alone():
    """Publishing digits is no reason to load letters again."""
    before = EMPTY.with_bundle("digits", A).with_bundle("letters", B)
    after = before.with_bundle("digits", C)
    assert after.datasets["letters"] == before.datasets["letters"]


WRITER = f"""
import sys, pathlib
from pgn.index import Index, change_index
for number in range(15):
    add = lambda old: old.with_bundle(f"set-{{sys.argv[2]}}-{{number}}", {A!r})
    change_index(pathlib.Path(sys.argv[1]), add, new=Index(revision=0, backbone={BACKBONE!r}))
"""


def test_concurrent_writers_lose_nothing(tmp_path):
    """Read, change and write are one step: `pgn add` in three shells at once counts three times."""
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, tmp_path, str(writer)]) for writer in range(3)]
    assert [writer.wait(60) for writer in writers] == [0, 0, 0]
    index = read_index(tmp_path)
    assert (index.revision, len(index.datasets)) == (45, 45)


def test_a_missing_index_is_an_error_with_a_hint(tmp_path):
    """Most likely the path is wrong."""
    with pytest.raises(IndexInvalid, match=r"index\.json cannot be read: No such file") as refusal:
        read_index(tmp_path)
    assert "pgn add" in refusal.value.hint


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "Invalid JSON"),
        ('{"schema": 1, "revision": 1', "Invalid JSON"),
        ("{}", "revision: Field required; backbone: Field required"),
        (json.dumps({"schema": 9, "revision": 1, "backbone": BACKBONE}), "schema"),
        (json.dumps({"revision": -1, "backbone": BACKBONE}), "revision"),
        (json.dumps({"revision": 1, "backbone": "short"}), "backbone"),
        (json.dumps({"revision": 1, "backbone": BACKBONE, "notes": "x"}), "notes"),
    ],
)
def test_a_damaged_index_is_refused_by_field(tmp_path, text, reason):
    """Half an index would silently serve half the data sets."""
    (tmp_path / "index.json").write_text(text)
    with pytest.raises(IndexInvalid, match=reason):
        read_index(tmp_path)


def test_a_damaged_index_is_not_replaced(tmp_path):
    """Starting afresh over it would forget every data set that it named."""
    (tmp_path / "index.json").write_text("{")
    with pytest.raises(IndexInvalid):
        change_index(tmp_path, lambda old: old.with_bundle("digits", A), new=EMPTY)
    assert (tmp_path / "index.json").read_text() == "{"


@pytest.mark.parametrize("name", ["Digits", "../digits", "", "di gits", "digits\n", "-x", "x" * 64])
def test_a_name_that_is_no_safe_folder_is_refused(name):
    """Names become paths and URLs."""
    with pytest.raises(ValueError, match="is no data set name"):
        EMPTY.with_bundle(name, A)


def test_shares_have_to_sum_to_one():
    """Every request goes to exactly one version."""
    with pytest.raises(ValueError, match="do not sum to 1"):
        Entry(versions=(Version(digest=A, share=0.5), Version(digest=B, share=0.4)))


@pytest.mark.parametrize(
    ("asked", "near"), [("digit", "digits"), ("fashion_mnist", "fashion-mnist"), ("moon", None), ("d" * 10_000, None)]
)
def test_an_unknown_data_set_names_its_neighbours(asked, near):
    """A slip of the keyboard is mended by reading the error; a hostile name gets a short answer."""
    error = unknown_dataset(asked, ["digits", "fashion-mnist", "cifar10"])
    assert repr(asked[:80]) in error.message
    assert error.message.partition("near names: ")[2] == (near or "")
    assert len(error.message) < 200


def test_the_version_with_the_largest_share_is_the_main_one():
    """Whoever names a data set and no digest gets it; a version on trial does not answer by accident."""
    trial, main = Version(digest="a" * 64, share=0.1), Version(digest="b" * 64, share=0.9)
    index = Index(revision=1, backbone="c" * 64, datasets={"pets": Entry(versions=(trial, main))})
    assert index.main_version("pets") == main.digest
    with pytest.raises(UnknownDataset, match="near names: pets"):
        index.main_version("pet")
