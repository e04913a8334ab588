"""The gateway follows the index: changes are served without a restart, and cost no request."""

from __future__ import annotations

import asyncio
import logging
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from pgn.bundle import read_bundle
from pgn.gateway.datasets import Facts, Version, read_catalog
from pgn.gateway.follow import Follower
from pgn.gateway.metrics import Metrics
from pgn.gateway.upstream import TorchServe
from pgn.index import read_index
from pgn.store.local import LocalStore
from tests.pgn.gateway.conftest import RunningGateway, StartGateway, wait_until
from tests.pgn.gateway.scripted import ScriptedTorchServe, hold, say
from tests.toys import make_bundle, make_images

IMAGE = make_images(1)[0]


@pytest.fixture
def own_store(store: LocalStore, tmp_path: Path) -> LocalStore:
    """A copy that a test may change."""
    return LocalStore(Path(shutil.copytree(store.root, tmp_path / "store")))


def make(store: LocalStore, dataset: str, seed: int) -> tuple[Path, str]:
    """A bundle that fits the store, and its digest."""
    path = make_bundle(store.root.parent / "made", dataset, read_index(store.root).backbone, seed=seed)
    return path, read_bundle(path).digest


def publish(store: LocalStore, dataset: str, seed: int) -> str:
    """What `pgn add` does from another process; the digest."""
    path, digest = make(store, dataset, seed)
    store.publish(path)
    return digest


def version_of(gateway: RunningGateway, dataset: str) -> str | None:
    """Who answers, or None if nobody does."""
    response = gateway.post(IMAGE, dataset)
    return response.json()["results"][0]["version"] if response.status_code == 200 else None


def test_every_gateway_on_a_store_serves_what_is_added_and_removed(
    start_gateway: StartGateway, own_store: LocalStore
) -> None:
    """Nobody has to be told: the index is all that they share."""
    gateways = [start_gateway(store=own_store.root) for _ in range(2)]
    added, replaced = publish(own_store, "owls", 50), publish(own_store, "birds", 51)
    for gateway in gateways:
        wait_until(lambda gateway=gateway: version_of(gateway, "owls") == added[:16])
        wait_until(lambda gateway=gateway: version_of(gateway, "birds") == replaced[:16])
    own_store.remove("owls")
    for gateway in gateways:
        wait_until(lambda gateway=gateway: gateway.post(IMAGE, "owls").status_code == 404)


def test_changes_under_load_cost_no_request_and_mix_no_versions(
    start_gateway: StartGateway, own_store: LocalStore
) -> None:
    """Each answer is of one version that the index named, and none is late by more than the change itself."""
    gateway = start_gateway(store=own_store.root, poll_s=0.01)
    served = [read_index(own_store.root).main_version("birds")]
    done = threading.Event()

    def ask() -> set[str]:
        seen = set()
        while not done.is_set():
            response = gateway.http.post("/v1/predict?datasets=birds,boats", content=IMAGE)
            assert response.status_code == 200, response.text
            seen.add(response.json()["results"][0]["version"])
        return seen

    with ThreadPoolExecutor(4) as clients:
        asking = [clients.submit(ask) for _ in range(4)]
        try:
            for seed in range(20):
                served.append(publish(own_store, "birds", 60 + seed))
                wait_until(lambda: version_of(gateway, "birds") == served[-1][:16])
        finally:
            done.set()
        seen = set().union(*(each.result() for each in asking))
    assert seen <= {digest[:16] for digest in served}
    assert len(seen) > 5


def test_a_new_data_set_is_asked_only_once_both_stages_hold_it(
    start_gateway: StartGateway, own_store: LocalStore, scripted: ScriptedTorchServe
) -> None:
    """Until then it says that it is being loaded, what it replaces goes on, and nobody else waits."""
    gateway = start_gateway(store=own_store.root)
    old = version_of(gateway, "birds")
    scripted.state["revision"] = read_index(own_store.root).revision
    (owls_file, owls), (birds_file, birds) = make(own_store, "owls", 50), make(own_store, "birds", 51)
    scripted.lacks |= {owls, birds}
    own_store.publish(birds_file)
    own_store.publish(owls_file)

    wait_until(lambda: "owls" in gateway.gateway.catalog.datasets)
    response = gateway.post(IMAGE, "owls")
    assert (response.status_code, response.json()["error"]["code"]) == (503, "service.not_ready")
    assert "retry-after" in response.headers
    assert version_of(gateway, "birds") == old
    scripted.lacks.clear()
    wait_until(lambda: version_of(gateway, "owls") == owls[:16])
    wait_until(lambda: version_of(gateway, "birds") == birds[:16])


def test_a_silent_stage_does_not_keep_a_removal_from_being_seen(
    start_gateway: StartGateway, own_store: LocalStore, scripted: ScriptedTorchServe
) -> None:
    """What was deleted must not be answered, whatever TorchServe does."""
    gateway = start_gateway(store=own_store.root)
    go_on = threading.Event()
    scripted.script["state"] += [hold(go_on, say(b""))] * 2
    try:
        publish(own_store, "owls", 50)
        wait_until(lambda: not scripted.script["state"])
        own_store.remove("birds")
        wait_until(lambda: gateway.post(IMAGE, "birds").status_code == 404)
    finally:
        go_on.set()


def test_an_index_that_cannot_be_read_changes_nothing_and_is_told_once(
    start_gateway: StartGateway, own_store: LocalStore, caplog: pytest.LogCaptureFixture
) -> None:
    """What was served is served on; when the index is whole again it is followed again."""
    gateway = start_gateway(store=own_store.root, poll_s=0.01)
    index = own_store.root / "index.json"
    whole = index.read_bytes()

    def count_errors() -> float:
        value = gateway.gateway.metrics.registry.get_sample_value("pgn_follow_errors_total", {"whom": "index"})
        return value or 0

    with caplog.at_level(logging.WARNING, "pgn.gateway.follow"):
        index.write_bytes(whole[:100])
        wait_until(lambda: count_errors() > 5)
    assert [record.getMessage() for record in caplog.records].count("not_followed") == 1
    assert version_of(gateway, "birds")
    index.write_bytes(whole)
    added = publish(own_store, "owls", 50)
    wait_until(lambda: version_of(gateway, "owls") == added[:16])


def test_a_file_that_comes_after_the_index_is_seen(
    start_gateway: StartGateway, own_store: LocalStore, tmp_path: Path
) -> None:
    """A restored bundle is served without another revision."""
    file = own_store.bundle_path("birds", read_index(own_store.root).main_version("birds"))
    file.rename(tmp_path / "away")
    gateway = start_gateway(store=own_store.root)
    assert gateway.post(IMAGE, "birds").json()["error"]["code"] == "dataset.unavailable"
    (tmp_path / "away").rename(file)
    wait_until(lambda: version_of(gateway, "birds") is not None)


def test_hundreds_of_data_sets_are_asked_about_in_several_messages(
    store: LocalStore, scripted: ScriptedTorchServe
) -> None:
    """A message names 64; every version is spoken of all the same."""
    facts = Facts(("a", "b"), 1, "", None, 1, 1, 1)
    catalog = read_catalog(store)
    birds = catalog.datasets["birds"]
    many = {
        name: replace(birds, name=name, versions=(Version(name, f"{place:064x}", 1.0, facts, "loading"),))
        for place, name in enumerate(f"d{i:03}" for i in range(150))
    }

    async def ask() -> Follower:
        upstream = TorchServe(
            scripted.config, count_retry=lambda _: None, count_lost=lambda _: None, on_missing=lambda: None
        )
        async with upstream:
            follower = Follower(
                store,
                replace(catalog, datasets=many),
                upstream,
                is_up=lambda: True,
                poll_s=1,
                metrics=Metrics(),
            )
            await follower.ask()
        return follower

    states = {dataset.main.state for dataset in asyncio.run(ask()).catalog.datasets.values()}
    assert states == {"ready"}
