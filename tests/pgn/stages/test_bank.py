"""The bank holds every bundle that verifies, and a reason for every other."""

from __future__ import annotations

from pathlib import Path

import pytest

from pgn.bundle import Bundle
from pgn.errors import BundleCorrupt, BundleIncompatible, BundleMissing, DatasetUnavailable, NotReady, UnknownDataset
from pgn.index import Version, change_index, read_index
from pgn.message import Target
from pgn.method.generator import Generator, load_generator
from pgn.stages.bank import Bank
from pgn.store.local import LocalStore
from tests.toys import make_bundle, make_store


@pytest.fixture
def bank(mixed_store: LocalStore) -> Bank[Generator]:
    """All that verifies in a store where not everything does."""
    return Bank[Generator](mixed_store, read_index(mixed_store.root), load_generator)


def digest_of(store: LocalStore, dataset: str) -> str:
    return read_index(store.root).datasets[dataset].versions[0].digest


def test_a_data_set_is_found_by_name_and_by_digest(bank: Bank[Generator], mixed_store: LocalStore) -> None:
    """Both lead to the same version."""
    by_name = bank.find(Target(dataset="pets"))
    assert by_name is bank.find(Target(dataset="pets", digest=digest_of(mixed_store, "pets")))
    assert by_name.manifest.dataset == "pets"
    assert by_name.version == by_name.digest[:16]


@pytest.mark.parametrize(
    ("dataset", "error"), [("broken", BundleCorrupt), ("foreign", BundleIncompatible), ("lost", BundleMissing)]
)
def test_a_refused_bundle_gives_its_reason_and_blocks_nobody(
    bank: Bank[Generator], mixed_store: LocalStore, dataset: str, error: type[Exception]
) -> None:
    """The operator reads in the answer what has to be published again."""
    fault = bank.faults[dataset, digest_of(mixed_store, dataset)]
    assert isinstance(fault, error)
    with pytest.raises(DatasetUnavailable) as raised:
        bank.find(Target(dataset=dataset))
    assert fault.message in raised.value.message
    assert {name for name, _ in bank.faults} == {"broken", "foreign", "lost"}
    assert bank.find(Target(dataset="flowers"))


def test_an_unknown_data_set_is_told_with_near_names(bank: Bank[Generator]) -> None:
    """A slip of the finger is the usual cause."""
    with pytest.raises(UnknownDataset, match="near names: flowers"):
        bank.find(Target(dataset="flower"))


def test_a_digest_of_another_data_set_is_not_taken(bank: Bank[Generator], mixed_store: LocalStore) -> None:
    """An answer would carry one data set's name and another's classes."""
    with pytest.raises(NotReady, match="pets"):
        bank.find(Target(dataset="pets", digest=digest_of(mixed_store, "flowers")))


def test_a_bundle_that_cannot_be_built_blocks_nobody(mixed_store: LocalStore) -> None:
    """Whatever a file holds, the others are served."""

    def build(bundle: Bundle) -> Generator:
        if bundle.manifest.dataset == "pets":
            raise ZeroDivisionError("unforeseen")
        return load_generator(bundle)

    bank = Bank[Generator](mixed_store, read_index(mixed_store.root), build)
    assert bank.find(Target(dataset="flowers"))
    with pytest.raises(DatasetUnavailable, match="unforeseen"):
        bank.find(Target(dataset="pets"))


def test_of_several_versions_the_one_with_the_largest_share_answers(tmp_path: Path) -> None:
    """A version on trial is asked for by its digest alone."""
    store = make_store(tmp_path, ["pets"])
    trial, _ = store.add(make_bundle(tmp_path / "made", "pets", read_index(tmp_path).backbone, seed=5))
    (main,) = read_index(tmp_path).datasets["pets"].previous

    def split(index: object) -> object:
        index = read_index(tmp_path)
        shares = (Version(digest=trial.digest, share=0.1), Version(digest=main, share=0.9))
        entry = index.datasets["pets"].model_copy(update={"versions": shares})
        return index.model_copy(update={"revision": index.revision + 1, "datasets": {"pets": entry}})

    index = change_index(tmp_path, split)  # type: ignore[arg-type]
    bank = Bank[Generator](store, index, load_generator)
    assert bank.find(Target(dataset="pets")).digest == main
    assert bank.find(Target(dataset="pets", digest=trial.digest)).digest == trial.digest
