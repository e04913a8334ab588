"""The bank holds every bundle that verifies, a reason for every other, and follows the index."""

from __future__ import annotations

import hashlib
import logging
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from pgn.bundle import Bundle
from pgn.errors import (
    BundleCorrupt,
    BundleIncompatible,
    BundleMissing,
    DatasetUnavailable,
    IndexInvalid,
    NotReady,
    PgnError,
    UnknownDataset,
)
from pgn.index import Entry, Index, Version, change_index, read_index
from pgn.message import Target
from pgn.method.generator import Generator, load_generator
from pgn.stages.bank import FIRST_PAUSE_S, LONGEST_PAUSE_S, Bank, Snapshot
from pgn.store.local import LocalStore
from tests.servers import wait_until
from tests.toys import make_bundle, make_store


@pytest.fixture
def snapshot(mixed_store: LocalStore) -> Snapshot[Generator]:
    """All that verifies in a store where not everything does."""
    return Bank[Generator](mixed_store, read_index(mixed_store.root).backbone, load_generator).snapshot


def digest_of(store: LocalStore, dataset: str) -> str:
    return read_index(store.root).datasets[dataset].versions[0].digest


class TestHolding:
    def test_a_data_set_is_found_by_name_and_by_digest(
        self, snapshot: Snapshot[Generator], mixed_store: LocalStore
    ) -> None:
        """Both lead to the same version."""
        by_name = snapshot.find(Target(dataset="pets"))
        assert by_name is snapshot.find(Target(dataset="pets", digest=digest_of(mixed_store, "pets")))
        assert by_name.manifest.dataset == "pets"
        assert by_name.version == by_name.digest[:16]

    @pytest.mark.parametrize(
        ("dataset", "error"), [("broken", BundleCorrupt), ("foreign", BundleIncompatible), ("lost", BundleMissing)]
    )
    def test_a_refused_bundle_gives_its_reason_and_blocks_nobody(
        self, snapshot: Snapshot[Generator], mixed_store: LocalStore, dataset: str, error: type[PgnError]
    ) -> None:
        """The operator reads in the answer what has to be published again."""
        fault = snapshot.refused[dataset, digest_of(mixed_store, dataset)].error
        assert isinstance(fault, error)
        with pytest.raises(DatasetUnavailable) as raised:
            snapshot.find(Target(dataset=dataset))
        assert fault.message in raised.value.message
        assert {name for name, _ in snapshot.refused} == {"broken", "foreign", "lost"}
        assert snapshot.find(Target(dataset="flowers"))

    def test_an_unknown_data_set_is_told_with_near_names(self, snapshot: Snapshot[Generator]) -> None:
        """A slip of the finger is the usual cause."""
        with pytest.raises(UnknownDataset, match="near names: flowers"):
            snapshot.find(Target(dataset="flower"))

    def test_a_digest_of_another_data_set_is_not_taken(
        self, snapshot: Snapshot[Generator], mixed_store: LocalStore
    ) -> None:
        """An answer would carry one data set's name and another's classes."""
        with pytest.raises(NotReady, match="pets"):
            snapshot.find(Target(dataset="pets", digest=digest_of(mixed_store, "flowers")))

    def test_a_bundle_that_cannot_be_built_blocks_nobody(self, mixed_store: LocalStore) -> None:
        """Whatever a file holds, the others are served."""

        def build(bundle: Bundle) -> Generator:
            if bundle.manifest.dataset == "pets":
                raise ZeroDivisionError("unforeseen")
            return load_generator(bundle)

        snapshot = Bank[Generator](mixed_store, read_index(mixed_store.root).backbone, build).snapshot
        assert snapshot.find(Target(dataset="flowers"))
        with pytest.raises(DatasetUnavailable, match="unforeseen"):
            snapshot.find(Target(dataset="pets"))

    def test_of_several_versions_the_one_with_the_largest_share_answers(self, tmp_path: Path) -> None:
        """A version on trial is asked for by its digest alone."""
        store = make_store(tmp_path, ["pets"])
        trial, _ = store.publish(make_bundle(tmp_path / "made", "pets", read_index(tmp_path).backbone, seed=5))
        (main,) = read_index(tmp_path).datasets["pets"].previous
        shares = (Version(digest=trial.digest, share=0.1), Version(digest=main, share=0.9))
        index = change_index(tmp_path, lambda index: naming(index, "pets", *shares))
        snapshot = Bank[Generator](store, index.backbone, load_generator).snapshot
        assert snapshot.find(Target(dataset="pets")).digest == main
        assert snapshot.find(Target(dataset="pets", digest=trial.digest)).digest == trial.digest

    def test_without_an_index_there_is_nothing_to_serve(self, tmp_path: Path) -> None:
        """A stage that started empty would answer 404 for every data set."""
        with pytest.raises(IndexInvalid, match="cannot be read"):
            Bank[Generator](LocalStore(tmp_path), "ab" * 32, load_generator)


def naming(index: Index, dataset: str, *versions: Version) -> Index:
    """The next index, in which exactly these versions serve `dataset`."""
    datasets = {**index.datasets, dataset: Entry(versions=versions)}
    return Index(revision=index.revision + 1, backbone=index.backbone, datasets=datasets)


@dataclass
class Followed:
    """A small store, a bank over it, the bundles that were built for it, and the time."""

    store: LocalStore
    bank: Bank[Generator]
    built: list[str]
    now: list[float] = field(default_factory=lambda: [0.0])

    @property
    def backbone(self) -> str:
        return read_index(self.store.root).backbone

    def publish(self, dataset: str, seed: int) -> str:
        """A new bundle, served from the next revision on; returns its digest."""
        path = make_bundle(self.store.root / "made", dataset, self.backbone, seed=seed)
        return self.store.publish(path)[0].digest

    def remove(self, dataset: str) -> None:
        self.store.remove(dataset)

    def answers(self, dataset: str, digest: str | None = None) -> str:
        return self.bank.snapshot.find(Target(dataset=dataset, digest=digest)).digest


@pytest.fixture
def followed(tmp_path: Path) -> Iterator[Followed]:
    """A bank over `flowers` and `pets` with ten seconds of grace; its clock stands still."""
    store = make_store(tmp_path / "store", ["flowers", "pets"])
    built: list[str] = []
    now = [0.0]

    def build(bundle: Bundle) -> Generator:
        built.append(bundle.manifest.dataset)
        return load_generator(bundle)

    backbone = read_index(store.root).backbone
    bank = Bank[Generator](store, backbone, build, grace_s=10, clock=lambda: now[0])
    yield Followed(store, bank, built, now)
    bank.close()


class TestFollowing:
    def test_what_is_published_is_served_and_what_is_held_is_not_loaded_again(self, followed: Followed) -> None:
        """A change costs the bundles that it brings, however many there are."""
        followed.built.clear()
        digest = followed.publish("shapes", 3)
        followed.bank.refresh()
        assert followed.answers("shapes") == digest
        assert followed.bank.snapshot.index.revision == read_index(followed.store.root).revision
        assert followed.built == ["shapes"]

    def test_without_a_change_nothing_is_read(self, followed: Followed, monkeypatch: pytest.MonkeyPatch) -> None:
        """It is asked five times a second."""
        monkeypatch.setattr("pgn.stages.bank.read_index", lambda _: pytest.fail("the index was read"))
        before = followed.bank.snapshot
        followed.bank.refresh()
        assert followed.bank.snapshot is before

    def test_a_snapshot_never_changes(self, followed: Followed) -> None:
        """A batch that began before a change ends as if there were none."""
        before = followed.bank.snapshot
        old = before.find(Target(dataset="pets"))
        new = followed.publish("pets", 9)
        followed.bank.refresh()
        assert before.find(Target(dataset="pets")) is old
        assert followed.answers("pets") == new != old.digest

    def test_a_dropped_version_answers_its_digest_for_the_grace_and_then_no_more(self, followed: Followed) -> None:
        """Requests on their way name it; the data set's own name is gone at once."""
        digest = followed.answers("pets")
        followed.remove("pets")
        followed.bank.refresh()
        with pytest.raises(UnknownDataset):
            followed.answers("pets")
        followed.now[0] = 9.9
        followed.bank.refresh()
        assert followed.answers("pets", digest) == digest
        followed.now[0] = 10.0
        followed.bank.refresh()
        with pytest.raises(NotReady):
            followed.answers("pets", digest)
        assert list(followed.bank.snapshot.held) == [("flowers", followed.answers("flowers"))]

    def test_a_version_that_comes_back_within_the_grace_stays(self, followed: Followed) -> None:
        """A rollback right after a publication finds its version loaded."""
        old = followed.answers("pets")
        followed.publish("pets", 9)
        followed.bank.refresh()
        followed.built.clear()
        change_index(followed.store.root, lambda index: naming(index, "pets", Version(digest=old)))
        followed.bank.refresh()
        followed.now[0] = 1000.0
        followed.bank.refresh()
        assert followed.answers("pets") == old
        assert followed.built == []

    def test_a_bundle_whose_file_comes_late_is_served_then(self, followed: Followed) -> None:
        """A copy may bring the index before the bundle."""
        path = make_bundle(followed.store.root / "made", "shapes", followed.backbone, seed=3)
        made = followed.publish("shapes", 3)
        served = followed.store.bundle_path("shapes", made)
        served.unlink()
        followed.bank.refresh()
        with pytest.raises(DatasetUnavailable, match="cannot be read"):
            followed.answers("shapes")
        assert followed.answers("pets")
        served.parent.mkdir(exist_ok=True)
        shutil.copy(path, served)
        followed.bank.refresh()
        assert followed.answers("shapes") == made

    def test_a_refused_bundle_is_tried_ever_more_rarely_while_its_file_is_the_same(
        self, followed: Followed, caplog: pytest.LogCaptureFixture
    ) -> None:
        """What failed for want of memory may succeed later; the log tells of it once."""
        made = followed.publish("shapes", 3)
        path = followed.store.bundle_path("shapes", made)
        path.write_bytes(path.read_bytes()[:-1] + b"\x07")
        pauses = []
        for _ in range(8):
            followed.bank.refresh()
            refused = followed.bank.snapshot.refused["shapes", made]
            pauses.append(refused.pause_s)
            followed.now[0] = refused.until - 0.01
            followed.bank.refresh()
            assert followed.bank.snapshot.refused["shapes", made] is refused
            followed.now[0] = refused.until
        assert pauses == [FIRST_PAUSE_S, 2, 4, 8, 16, 32, LONGEST_PAUSE_S, LONGEST_PAUSE_S]
        assert caplog.text.count("bundle refused") == 1

    def test_an_index_that_cannot_be_read_keeps_what_is_served(
        self, followed: Followed, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A damaged file is the operator's to mend; the thread says so once and goes on looking."""
        path = followed.store.root / "index.json"
        whole = path.read_bytes()
        path.write_bytes(b"{}")
        followed.bank.follow(0.01)
        wait_until(lambda: "index not followed" in caplog.text, "the line in the log")
        assert followed.answers("pets")
        path.unlink()
        wait_until(lambda: "No such file" in caplog.text, "the other line")
        path.write_bytes(whole)
        digest = followed.publish("shapes", 3)
        wait_until(lambda: ("shapes", digest) in followed.bank.snapshot.held, "the new bundle")
        followed.bank.close()
        assert caplog.text.count("backbone: Field required") == 1

    def test_an_unforeseen_error_does_not_end_the_thread(
        self, followed: Followed, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A stage that followed no more would serve yesterday's bundles, and nobody would see it."""

        def fail(_: Path) -> Index:
            raise ZeroDivisionError("unforeseen")

        with monkeypatch.context() as patch:
            patch.setattr("pgn.stages.bank.read_index", fail)
            digest = followed.publish("shapes", 3)
            followed.bank.follow(0.01)
            wait_until(lambda: "unforeseen" in caplog.text, "the error")
        wait_until(lambda: ("shapes", digest) in followed.bank.snapshot.held, "the new bundle")

    def test_an_index_of_another_backbone_is_not_half_served(
        self, followed: Followed, caplog: pytest.LogCaptureFixture
    ) -> None:
        """The process has one ViT; what was trained on it goes on answering, the rest says why it does not."""
        other = "f" * 64
        foreign = make_bundle(followed.store.root / "datasets" / "foreign", "foreign", other)
        version = Version(digest=full_digest(foreign))

        def move(index: Index) -> Index:
            return Index(
                revision=index.revision + 1,
                backbone=other,
                datasets={**index.datasets, "foreign": Entry(versions=(version,))},
            )

        change_index(followed.store.root, move)
        followed.bank.refresh()
        with pytest.raises(DatasetUnavailable, match="was trained on backbone toy"):
            followed.answers("foreign")
        assert followed.answers("pets")
        assert "the index names another backbone" in caplog.text

    def test_a_change_is_told_in_one_line(self, followed: Followed, caplog: pytest.LogCaptureFixture) -> None:
        """Revision and numbers are fields, for whoever collects logs."""
        followed.publish("shapes", 3)
        with caplog.at_level(logging.INFO, logger="pgn"):
            followed.bank.refresh()
        (record,) = [record for record in caplog.records if record.message == "index served"]
        assert (vars(record)["loaded"], vars(record)["refused"], vars(record)["revision"]) == (1, 0, 3)


def full_digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
