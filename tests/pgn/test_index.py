"""The index is the only thing in a model store that changes, and it only grows."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgn.errors import IndexInvalid, MalformedRequest, UnknownDataset, VersionConflict
from pgn.index import (
    KEPT_VERSIONS,
    MAX_SIDE_BY_SIDE,
    Entry,
    Index,
    Version,
    change_index,
    read_index,
    unknown_dataset,
)

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
        change_index(tmp_path, lambda old: Index(revision=1, backbone=BACKBONE))
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


def test_a_share_puts_a_version_beside_the_others():
    """A trial takes its part; the rest is divided as before, and the trial that proves itself takes all."""
    index = EMPTY.with_bundle("digits", A).with_bundle("digits", B, 0.2).with_bundle("digits", C, 0.5)
    assert [(each.digest, each.share) for each in index.datasets["digits"].versions] == [(C, 0.5), (B, 0.1), (A, 0.4)]
    entry = index.with_bundle("digits", C).datasets["digits"]
    assert entry.versions == (Version(digest=C, share=1.0),)


def test_one_goes_back_to_what_carried_most_of_the_traffic():
    """A trial that was left for something better is not the version to rely on."""
    index = EMPTY.with_bundle("digits", A).with_bundle("digits", B, 0.2).with_bundle("digits", C)
    assert index.datasets["digits"].previous == (A, B)


def test_the_first_version_takes_all():
    """There is nothing beside it that could take the rest."""
    assert EMPTY.with_bundle("digits", A, 0.1).datasets["digits"].versions == (Version(digest=A, share=1.0),)


def test_saying_it_again_changes_nothing():
    """A repeated request is no change: nobody has to look."""
    index = EMPTY.with_bundle("digits", A).with_bundle("digits", B, 0.3).with_bundle("digits", C, 0.17)
    assert index.with_bundle("digits", C, 0.17) is index


@pytest.mark.parametrize("share", [0, -1, 1.0001, float("nan")])
def test_a_share_is_a_part(share):
    """Over nothing and at most all."""
    with pytest.raises(MalformedRequest, match="not over 0 and at most 1"):
        EMPTY.with_bundle("digits", A, share)


def test_versions_side_by_side_are_few():
    """Every one of them is held in memory everywhere; changing the share of one of them is no further one."""
    index = EMPTY
    for number in range(MAX_SIDE_BY_SIDE):
        index = index.with_bundle("digits", f"{number:064x}", 0.5)
    assert index.with_bundle("digits", f"{1:064x}", 0.1).revision == index.revision + 1
    with pytest.raises(VersionConflict, match="4 versions side by side"):
        index.with_bundle("digits", A, 0.5)


def test_going_back_goes_back_further_each_time():
    """Twice back is two versions back; what was taken back does not come again by itself."""
    index = EMPTY.with_bundle("digits", A).with_bundle("digits", B).with_bundle("digits", C)
    assert index.rolled_back("digits").main_version("digits") == B
    index = index.rolled_back("digits").rolled_back("digits")
    assert index.datasets["digits"] == Entry(versions=(Version(digest=A, share=1.0),))
    with pytest.raises(VersionConflict, match="'digits' has no version to go back to"):
        index.rolled_back("digits")


def test_going_back_ends_a_trial():
    """The others take its share, in the proportion they had."""
    index = EMPTY.with_bundle("digits", A).with_bundle("digits", B, 0.2).with_bundle("digits", C, 0.5)
    back = index.rolled_back("digits").datasets["digits"].versions
    assert [(each.digest, each.share) for each in back] == [(B, 0.2), (A, 0.8)]


def test_a_removed_name_is_unknown():
    """And so are its files: nothing of it is kept."""
    index = EMPTY.with_bundle("digits", A).with_bundle("letters", B).without("digits")
    assert index.kept() == {("letters", B)}
    with pytest.raises(UnknownDataset):
        index.without("digits")


def test_what_is_kept_is_what_is_served_and_what_can_be_gone_back_to():
    """Files are deleted by this."""
    index = EMPTY.with_bundle("digits", A).with_bundle("digits", B).with_bundle("digits", C, 0.5)
    assert index.kept() == {("digits", each) for each in (A, B, C)}


def test_an_entry_can_do_without_a_version():
    """Where one of several cannot be had, the others take its share."""
    entry = (
        EMPTY.with_bundle("digits", A).with_bundle("digits", B, 0.2).with_bundle("digits", C, 0.5).datasets["digits"]
    )
    left = entry.only({A, C}).versions
    assert [each.digest for each in left] == [C, A]
    assert [each.share for each in left] == pytest.approx([5 / 9, 4 / 9])
    assert entry.only(set()) is None


names, digests = st.sampled_from(["digits", "letters"]), st.integers(0, 9).map(lambda number: f"{number:064x}")
publications = st.tuples(names, digests, st.one_of(st.just(1.0), st.floats(0.001, 0.999)))


def grown(changes):
    """An index after these publications; one too many side by side is left out."""
    index = EMPTY
    for name, digest, share in changes:
        try:
            index = index.with_bundle(name, digest, share)
        except VersionConflict:
            continue
    return index


@given(st.lists(publications, max_size=30), publications)
def test_every_change_keeps_the_promises(changes, last):
    """Whatever is published: revisions grow, shares sum to 1, few versions are kept, none of them twice."""
    before = grown(changes)
    after = grown([*changes, last])
    assert after.revision == before.revision + (after != before)
    for entry in after.datasets.values():
        served = [version.digest for version in entry.versions]
        assert sum(version.share for version in entry.versions) == pytest.approx(1, abs=1e-9)
        assert len(served) <= MAX_SIDE_BY_SIDE
        assert len(entry.previous) <= KEPT_VERSIONS
        assert len({*served, *entry.previous}) == len(served) + len(entry.previous)
    assert Index.model_validate_json(after.to_json()) == after


@given(st.lists(publications, max_size=12), st.one_of(st.just(1.0), st.floats(0.001, 0.999)))
def test_going_back_undoes_a_publication(changes, share):
    """Of a bundle that is new: what serves is what served, and what can be gone back to is what could, but the last."""
    before = grown([("digits", A, 1.0), *changes])
    if len(before.datasets["digits"].versions) == MAX_SIDE_BY_SIDE:
        return
    after = before.with_bundle("digits", B, share).rolled_back("digits")
    if share == 1 and len(before.datasets["digits"].versions) > 1:
        assert after.main_version("digits") == before.main_version("digits")
        return
    old, new = before.datasets["digits"], after.datasets["digits"]
    assert [version.digest for version in new.versions] == [version.digest for version in old.versions]
    assert [version.share for version in new.versions] == pytest.approx([version.share for version in old.versions])
    assert new.previous == old.previous[: len(new.previous)]
    assert len(old.previous) - len(new.previous) <= 1


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
