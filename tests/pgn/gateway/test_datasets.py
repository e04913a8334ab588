"""The catalog: what the index says, what its bundles turned out to be, and what both stages hold."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path
from typing import Any, Literal

import pytest

from pgn.bundle import read_bundle
from pgn.errors import BackboneInvalid, DatasetUnavailable, IndexInvalid, NotReady, RequestError, UnknownDataset
from pgn.gateway.datasets import Catalog, read_catalog
from pgn.index import change_index, read_index
from pgn.message import HeldVersion, StageState, Target
from pgn.store.local import LocalStore
from tests.toys import make_backbone, make_bundle


@pytest.fixture
def own_store(store: LocalStore, tmp_path: Path) -> LocalStore:
    """A copy that a test may change."""
    return LocalStore(Path(shutil.copytree(store.root, tmp_path / "store")))


def state(stage: Literal["pgn", "vit"], revision: int, held: set[Target], **refused: str) -> StageState:
    """What a stage says that holds these, and has refused data sets for a reason."""
    common: dict[str, Any] = {"tier": "host", "bytes": 1, "age_s": 5.0}
    versions = [
        HeldVersion(dataset=target.dataset, digest=target.digest or "", state="ready", **common)
        if target.dataset not in refused
        else HeldVersion(
            dataset=target.dataset,
            digest=target.digest or "",
            state="refused",
            last_error=refused[target.dataset],
            **common,
        )
        for target in held
    ]
    return StageState(
        request_id="x",
        stage=stage,
        revision=revision,
        device="cpu",
        versions=tuple(versions),
        server_threads=1,
        server_rss_bytes=1,
    )


def everything(catalog: Catalog) -> set[Target]:
    return {version.target for version in catalog.versions()}


def heard(
    catalog: Catalog, *, revision: int | None = None, missing: frozenset[Target] = frozenset(), **refused: str
) -> Catalog:
    """The catalog after both stages said that they hold everything, but for what stage vit lacks or refused."""
    at = catalog.revision if revision is None else revision
    asked = everything(catalog)
    says = [state("pgn", at, asked), state("vit", at, asked - missing, **refused)]
    return catalog.after(says, frozenset(asked))


def publish(store: LocalStore, folder: Path, dataset: str, *, seed: int, share: float = 1.0) -> str:
    path = make_bundle(folder, dataset, read_index(store.root).backbone, seed=seed)
    return store.publish(path, share=share)[0].digest


def test_targets_are_pinned_to_the_served_digest(store: LocalStore) -> None:
    """Both stages answer with the version that the index named when the request came."""
    index = read_index(store.root)
    versions = heard(read_catalog(store)).pin(["digits", "birds"])
    assert [version.dataset for version in versions] == ["digits", "birds"]
    assert [version.digest for version in versions] == [index.datasets[v.dataset].versions[0].digest for v in versions]


def test_nothing_is_asked_before_both_stages_hold_it(store: LocalStore) -> None:
    """A request that names what one stage lacks would fail; it is told to come again instead."""
    catalog = read_catalog(store)
    with pytest.raises(NotReady, match="being loaded"):
        catalog.pin(["birds"])
    birds = frozenset(version.target for version in catalog.datasets["birds"].versions)
    late = heard(catalog, revision=catalog.revision - 1, missing=birds)
    with pytest.raises(NotReady, match=r"stage vit serves revision 3 of the index, not 4 yet"):
        late.pin(["birds"])
    assert late.pin(["boats"])
    assert heard(late).pin(["birds"])


def test_what_a_stage_refuses_or_lacks_at_this_revision_is_unavailable_and_blocks_nobody(store: LocalStore) -> None:
    """The reason is that of the stage, for whoever lists the data sets."""
    catalog = read_catalog(store)
    birds = frozenset(version.target for version in catalog.datasets["birds"].versions)
    refused = heard(catalog, birds="wrong width")
    with pytest.raises(DatasetUnavailable, match="stage vit: wrong width"):
        refused.pin(["birds"])
    with pytest.raises(DatasetUnavailable, match="stage vit: does not hold it"):
        heard(catalog, missing=birds).pin(["birds"])
    assert refused.pin(["boats", "digits"])
    assert heard(refused).pin(["birds"])  # and it is believed when it has loaded it after all


def test_a_stage_that_is_ahead_of_the_catalog_takes_nothing_away(store: LocalStore) -> None:
    """It has read the next index first; what that says is known in a moment."""
    catalog = heard(read_catalog(store))
    ahead = heard(catalog, revision=catalog.revision + 1, missing=frozenset(everything(catalog)))
    assert ahead.pin(["birds"]) == catalog.pin(["birds"])


def test_what_a_change_replaces_answers_until_the_new_version_is_held(own_store: LocalStore, tmp_path: Path) -> None:
    """A change costs no request: the old version goes on, then the new one takes over."""
    before = heard(read_catalog(own_store))
    (old,) = before.pin(["birds"])
    new = publish(own_store, tmp_path, "birds", seed=50)

    catalog = read_catalog(own_store, before)
    assert catalog.pin(["birds"]) == (old,)
    assert [version.state for version in catalog.datasets["birds"].versions] == ["loading"]
    late = heard(catalog, revision=before.revision, missing=frozenset({Target(dataset="birds", digest=new)}))
    assert late.pin(["birds"])[0].digest == old.digest
    assert heard(late).pin(["birds"])[0].digest == new
    assert heard(late).datasets["birds"].standing_in == ()


def test_what_stands_in_goes_when_the_stages_let_go_of_it(own_store: LocalStore, tmp_path: Path) -> None:
    """A stage holds a dropped version for a while only; then it must not be named any more."""
    before = heard(read_catalog(own_store))
    new = Target(dataset="birds", digest=publish(own_store, tmp_path, "birds", seed=50))
    gone = frozenset({new, before.pin(["birds"])[0].target})
    with pytest.raises(NotReady):
        heard(read_catalog(own_store, before), revision=before.revision, missing=gone).pin(["birds"])


def test_a_removed_data_set_is_gone_at_once(own_store: LocalStore) -> None:
    """Whatever the stages still hold."""
    before = heard(read_catalog(own_store))
    own_store.remove("birds")
    with pytest.raises(UnknownDataset):
        read_catalog(own_store, before).pin(["birds"])


def test_traffic_is_divided_by_the_shares(own_store: LocalStore, tmp_path: Path) -> None:
    """Each request gets one version whole; over many, each version gets its share."""
    old = read_index(own_store.root).main_version("birds")
    new = publish(own_store, tmp_path, "birds", seed=50, share=0.25)
    catalog = heard(read_catalog(own_store))
    drawn = Counter(catalog.pin(["birds"])[0].digest for _ in range(4000))
    assert drawn.keys() == {old, new}
    assert 800 < drawn[new] < 1200  # 1000, and 7 standard deviations


def test_a_version_that_cannot_answer_leaves_its_share_to_the_others(own_store: LocalStore, tmp_path: Path) -> None:
    """A trial with a tenth of the traffic must not cost a tenth of the requests."""
    old = read_index(own_store.root).main_version("birds")
    new = Target(dataset="birds", digest=publish(own_store, tmp_path, "birds", seed=50, share=0.9))
    catalog = heard(read_catalog(own_store), missing=frozenset({new}))
    assert {catalog.pin(["birds"])[0].digest for _ in range(50)} == {old}


def test_what_was_verified_is_not_verified_again(own_store: LocalStore, tmp_path: Path) -> None:
    """Reading hundreds of bundles for each change would be slow; a digest stands for its bytes."""
    before = heard(read_catalog(own_store))
    publish(own_store, tmp_path, "boats", seed=50)
    after = read_catalog(own_store, before)
    assert after.datasets["birds"].main.facts is before.datasets["birds"].main.facts
    assert after.datasets["birds"].main.state == "ready"


def test_what_a_stage_refused_is_asked_about_again_under_the_next_index(own_store: LocalStore) -> None:
    """The stage tries it once more then, and whoever published it waits for what comes of that."""
    refused = heard(read_catalog(own_store), birds="no memory")
    change_index(own_store.root, lambda index: index.renewed())
    catalog = read_catalog(own_store, refused)
    assert catalog.datasets["birds"].main.state == "loading"
    assert heard(catalog).pin(["birds"])


def test_each_fault_has_its_reason_and_the_others_are_served(own_store: LocalStore, tmp_path: Path) -> None:
    """A changed byte, a missing file and a wrong backbone take out one data set each."""
    (own_store.root / "datasets" / "boats").rename(tmp_path / "away")
    foreign = make_bundle(tmp_path, "digits", make_backbone(tmp_path / "other", seed=9))
    digest = read_bundle(foreign).digest
    shutil.copy(foreign, own_store.bundle_path("digits", digest))
    change_index(own_store.root, lambda index: index.with_bundle("digits", digest))

    catalog = heard(read_catalog(own_store))
    found = {name: (dataset.main.state, dataset.main.reason or "") for name, dataset in catalog.datasets.items()}
    assert found["birds"] == ("ready", "")
    for name, expected, reason in (
        ("broken", "unavailable", "SHA-256"),
        ("boats", "unavailable", "cannot be read"),
        ("digits", "incompatible", "was trained on backbone"),
    ):
        assert found[name][0] == expected
        assert reason in found[name][1]
    answering = catalog.any_answering()
    assert answering is not None
    assert answering.dataset == "birds"
    with pytest.raises(DatasetUnavailable, match="was trained on backbone"):
        catalog.pin(["digits"])


def test_a_running_service_keeps_its_backbone(own_store: LocalStore, tmp_path: Path) -> None:
    """The ViT in memory does not change with the index, so what that names for another one is incompatible."""
    before = heard(read_catalog(own_store))
    make_backbone(own_store.root / "backbones" / "other", seed=9, name="other")
    index = read_index(own_store.root)
    other = index.model_copy(update={"backbone": "f" * 64, "revision": index.revision + 1})
    (own_store.root / "index.json").write_bytes(other.to_json())
    assert read_catalog(own_store, before).backbone == before.backbone


def test_unknown_names_come_with_near_ones_that_may_be_asked(store: LocalStore) -> None:
    """Near names help; far ones would only be noise, and those of others are nobody's business."""
    catalog = heard(read_catalog(store))
    with pytest.raises(UnknownDataset, match="near names: boats"):
        catalog.pin(["birds", "boat"])
    with pytest.raises(UnknownDataset) as raised:
        catalog.pin(["boat"], lambda name: name != "boats")
    assert "boats" not in raised.value.message
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
