"""The catalog: what the index says, and what its bundles turned out to be."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from pgn.bundle import read_bundle
from pgn.errors import BackboneInvalid, DatasetUnavailable, IndexInvalid, RequestError, UnknownDataset
from pgn.gateway.datasets import read_catalog
from pgn.index import change_index, read_index
from pgn.store.local import LocalStore
from tests.toys import make_backbone, make_bundle


@pytest.fixture
def own_store(store: LocalStore, tmp_path: Path) -> LocalStore:
    """A copy that a test may damage."""
    return LocalStore(Path(shutil.copytree(store.root, tmp_path / "store")))


def test_targets_are_pinned_to_the_served_digest(store: LocalStore) -> None:
    """Both stages answer with the version that the index named when the request came."""
    index = read_index(store.root)
    targets = read_catalog(store).pin(["digits", "birds"])
    assert [target.dataset for target in targets] == ["digits", "birds"]
    assert [target.digest for target in targets] == [index.datasets[t.dataset].versions[0].digest for t in targets]


def test_each_fault_has_its_reason_and_the_others_are_served(own_store: LocalStore, tmp_path: Path) -> None:
    """A changed byte, a missing file and a wrong backbone take out one data set each."""
    (own_store.root / "datasets" / "boats").rename(tmp_path / "away")
    foreign = make_bundle(tmp_path, "digits", make_backbone(tmp_path / "other", seed=9))
    digest = read_bundle(foreign).digest
    shutil.copy(foreign, own_store.bundle_path("digits", digest))
    change_index(own_store.root, lambda index: index.with_bundle("digits", digest))

    catalog = read_catalog(own_store)
    reasons = {name: found.reason for name, found in catalog.datasets.items()}
    assert "SHA-256" in (reasons["broken"] or "")
    assert "cannot be read" in (reasons["boats"] or "")
    assert "was trained on backbone" in (reasons["digits"] or "")
    assert reasons["birds"] is None
    assert catalog.any_ready() == "birds"
    with pytest.raises(DatasetUnavailable, match="was trained on backbone"):
        catalog.pin(["digits"])


def test_unknown_names_come_with_near_ones(store: LocalStore) -> None:
    """Near names help; far ones would only be noise."""
    catalog = read_catalog(store)
    with pytest.raises(UnknownDataset, match="near names: boats"):
        catalog.pin(["birds", "boat"])
    with pytest.raises(UnknownDataset) as raised:
        catalog.find("zzzzzzzz" * 1000)
    assert "near names" not in raised.value.message
    assert len(raised.value.message) < 200


@pytest.mark.parametrize("names", [[], ["birds", "birds"], [f"d{i}" for i in range(65)]])
def test_lists_that_no_message_holds_are_refused(store: LocalStore, names: list[str]) -> None:
    """The fault is the client's, and is found before anything is decoded."""
    with pytest.raises(RequestError):
        read_catalog(store).pin(names)


def test_a_store_without_index_or_backbone_is_refused(own_store: LocalStore) -> None:
    """Without them nothing can be served, so the start fails with the reason."""
    shutil.rmtree(own_store.root / "backbones")
    with pytest.raises(BackboneInvalid):
        read_catalog(own_store)
    (own_store.root / "index.json").unlink()
    with pytest.raises(IndexInvalid):
        read_catalog(own_store)
