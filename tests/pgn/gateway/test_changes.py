"""Bundles put, removed and rolled back over HTTP: what is acknowledged is served, and kept."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx
import pytest

from pgn.bundle import read_bundle
from pgn.errors import DiskFull, StoreUnavailable
from pgn.index import read_index
from pgn.store.local import LocalStore
from tests.pgn.gateway.conftest import RunningGateway, StartGateway, wait_until
from tests.pgn.gateway.scripted import ScriptedTorchServe
from tests.pgn.gateway.test_app import check_error
from tests.toys import make_backbone, make_bundle, make_images

IMAGE = make_images(1)[0]


@pytest.fixture
def own_store(store: LocalStore, tmp_path: Path) -> LocalStore:
    """A copy that a test may change."""
    return LocalStore(Path(shutil.copytree(store.root, tmp_path / "store")))


@pytest.fixture
def gateway(start_gateway: StartGateway, own_store: LocalStore, tmp_path: Path) -> RunningGateway:
    """Serves birds, boats and digits; may be changed."""
    return start_gateway(store=own_store.root, audit_log=tmp_path / "audit.jsonl", poll_s=0.01)


@pytest.fixture
def audit(tmp_path: Path) -> Any:
    """Reads the audit log's lines."""
    return lambda: [json.loads(line) for line in (tmp_path / "audit.jsonl").read_text().splitlines()]


def make(store: LocalStore, dataset: str, seed: int = 50) -> bytes:
    """A bundle's bytes."""
    folder = store.root.parent / "made"
    return make_bundle(folder, dataset, read_index(store.root).backbone, seed=seed).read_bytes()


def put(gateway: RunningGateway, dataset: str, data: bytes, **more: Any) -> httpx.Response:
    return gateway.http.put(f"/v1/datasets/{dataset}", content=data, **more)


def test_a_put_bundle_answers_when_the_put_has(gateway: RunningGateway, own_store: LocalStore) -> None:
    """No pause and no polling: the next request is answered by the new bundle."""
    data = make(own_store, "owls")
    response = put(gateway, "owls", data)
    assert response.status_code == 201, response.text
    body = response.json()
    assert (body["dataset"], body["state"], body["reason"]) == ("owls", "ready", None)
    assert body["revision"] == read_index(own_store.root).revision
    answer = gateway.post(IMAGE, "owls").json()["results"][0]
    assert answer["version"] == body["versions"][0]["version"] == sha256(data).hexdigest()[:16]


def test_putting_the_same_bundle_again_changes_nothing(gateway: RunningGateway, own_store: LocalStore) -> None:
    """A client that got no answer may simply try again."""
    data = make(own_store, "owls")
    first, second = put(gateway, "owls", data), put(gateway, "owls", data)
    assert (first.status_code, second.status_code) == (201, 200)
    assert first.json()["revision"] == second.json()["revision"]


def test_a_share_puts_a_version_beside_the_others(gateway: RunningGateway, own_store: LocalStore) -> None:
    """A trial with part of the traffic; rollback ends it and the others take its share."""
    old = read_index(own_store.root).main_version("birds")
    body = put(gateway, "birds", make(own_store, "birds"), params={"share": 0.25}).json()
    assert [version["share"] for version in body["versions"]] == [0.25, 0.75]
    seen = {gateway.post(IMAGE).json()["results"][0]["version"] for _ in range(60)}
    assert seen == {version["version"] for version in body["versions"]}

    back = gateway.http.post("/v1/datasets/birds/rollback")
    assert back.status_code == 200
    assert [version["digest"] for version in back.json()["versions"]] == [old]


def test_rollback_goes_back_to_the_version_before(gateway: RunningGateway, own_store: LocalStore) -> None:
    """Without uploading it again: the store keeps it."""
    before = gateway.post(IMAGE).json()["results"]
    body = put(gateway, "birds", make(own_store, "birds")).json()
    assert len(body["previous"]) == 1
    assert gateway.post(IMAGE).json()["results"][0]["version"] != before[0]["version"]
    assert gateway.http.post("/v1/datasets/birds/rollback").json()["state"] == "ready"
    assert gateway.post(IMAGE).json()["results"] == before
    check_error(gateway.http.post("/v1/datasets/birds/rollback"), 409, "dataset.version_conflict")


def test_a_removed_data_set_is_gone_when_the_answer_comes(gateway: RunningGateway, own_store: LocalStore) -> None:
    """Nothing is answered from a deleted set afterwards, and removing it again is 404."""
    response = gateway.http.delete("/v1/datasets/birds")
    assert (response.status_code, response.json()["state"]) == (200, "removed")
    check_error(gateway.post(IMAGE), 404, "dataset.unknown")
    assert "birds" not in read_index(own_store.root).datasets
    check_error(gateway.http.delete("/v1/datasets/birds"), 404, "dataset.unknown")
    check_error(gateway.http.post("/v1/datasets/birds/rollback"), 404, "dataset.unknown")


def test_a_second_gateway_serves_what_was_put_through_the_first(
    gateway: RunningGateway, start_gateway: StartGateway, own_store: LocalStore
) -> None:
    """Several workers, one store: whoever took the upload, all serve it."""
    other = start_gateway(store=own_store.root)
    assert put(gateway, "owls", make(own_store, "owls")).status_code == 201
    wait_until(lambda: other.post(IMAGE, "owls").status_code == 200)
    assert other.http.delete("/v1/datasets/owls").status_code == 200
    wait_until(lambda: gateway.post(IMAGE, "owls").status_code == 404)


def test_many_changes_at_once_lose_nothing(
    gateway: RunningGateway, start_gateway: StartGateway, own_store: LocalStore
) -> None:
    """Every acknowledged upload is in the index, through whichever gateway it came; the rest was told to come again."""
    gateways = [gateway, start_gateway(store=own_store.root)]
    bundles = {f"set-{i}": make(own_store, f"set-{i}", seed=100 + i) for i in range(12)}

    def upload(place: int) -> str | None:
        name = f"set-{place}"
        response = put(gateways[place % 2], name, bundles[name])
        assert response.status_code in (201, 503), response.text
        return name if response.status_code == 201 else None

    with ThreadPoolExecutor(6) as clients:
        acknowledged = {name for name in clients.map(upload, range(12)) if name}
    assert acknowledged
    index = read_index(own_store.root)
    assert {name for name in index.datasets if name.startswith("set-")} == acknowledged
    for running in gateways:
        wait_until(lambda running=running: running.gateway.catalog.revision == index.revision)


def test_a_bundle_may_come_as_a_form_with_its_signature(gateway: RunningGateway, own_store: LocalStore) -> None:
    """A browser and `curl -F` send forms; a service without a public key passes the signature on unread."""
    files = {"bundle": make(own_store, "owls"), "signature": b"{}"}
    assert gateway.http.put("/v1/datasets/owls", files=files).status_code == 201
    check_error(gateway.http.put("/v1/datasets/owls", files={"image": b"x"}), 400, "request.malformed")
    check_error(gateway.http.put("/v1/datasets/owls", files={"signature": b"x"}), 400, "request.malformed")


def test_what_is_no_valid_bundle_is_422_with_its_reason(gateway: RunningGateway, own_store: LocalStore) -> None:
    """Noise, a bundle with a changed byte, one of another data set: refused before anything is stored."""
    data = make(own_store, "owls")
    before = (own_store.root / "index.json").read_bytes()
    check_error(put(gateway, "owls", b"noise" * 100), 422, "bundle.invalid")
    check_error(put(gateway, "owls", data[:-3]), 422, "bundle.invalid")
    fields = check_error(put(gateway, "birds", data), 422, "bundle.invalid")
    assert "'owls'" in fields["message"]
    check_error(put(gateway, "owls", b""), 400, "request.empty")
    assert (own_store.root / "index.json").read_bytes() == before
    assert gateway.post(IMAGE).status_code == 200


def test_a_bundle_of_another_backbone_is_409(gateway: RunningGateway, own_store: LocalStore, tmp_path: Path) -> None:
    """Its prompts mean nothing to this ViT."""
    foreign = make_bundle(tmp_path, "owls", make_backbone(tmp_path / "other", seed=9)).read_bytes()
    fields = check_error(put(gateway, "owls", foreign), 409, "bundle.wrong_backbone")
    assert "trained on backbone" in fields["message"]
    assert "owls" not in read_index(own_store.root).datasets


@pytest.mark.parametrize("query", ["share=0", "share=1.5", "share=x", "shares=1"])
def test_a_wrong_share_is_400(gateway: RunningGateway, own_store: LocalStore, query: str) -> None:
    """Not over 0, over 1, no number, misspelt."""
    response = put(gateway, "owls", make(own_store, "owls"), params=dict([query.split("=")]))
    check_error(response, 400, "request.invalid")


@pytest.mark.parametrize("way", ["raw", "streamed", "form"])
def test_a_bundle_over_the_limit_is_413(start_gateway: StartGateway, own_store: LocalStore, way: str) -> None:
    """Whatever way it comes; the limit of images is another."""
    data = make(own_store, "owls")
    gateway = start_gateway(store=own_store.root, max_bundle_bytes=len(data), max_body_bytes=100)
    longer = data + b"x"

    def stream() -> Iterator[bytes]:
        yield longer[:1000]
        yield longer[1000:]

    sent: dict[str, dict[str, Any]] = {
        "raw": {"content": longer},
        "streamed": {"content": stream()},
        "form": {"files": {"bundle": longer}},
    }
    check_error(gateway.http.put("/v1/datasets/owls", **sent[way]), 413, "request.too_large")
    assert put(gateway, "owls", data).status_code == 201


@pytest.mark.parametrize(
    ("error", "status"), [(DiskFull("no room in /srv"), 507), (StoreUnavailable("the bucket does not answer"), 503)]
)
def test_a_store_that_cannot_take_it_says_so(
    gateway: RunningGateway, own_store: LocalStore, monkeypatch: pytest.MonkeyPatch, error: Exception, status: int
) -> None:
    """A full disk or a bucket that is away: no acknowledgement, and everything goes on."""

    def fail(*_: object, **__: object) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(LocalStore, "publish", fail)
        assert put(gateway, "owls", make(own_store, "owls")).status_code == status
    assert gateway.post(IMAGE).status_code == 200
    assert put(gateway, "owls", make(own_store, "owls")).status_code == 201


def test_a_change_that_the_stages_have_not_taken_up_is_202(
    start_gateway: StartGateway, own_store: LocalStore, scripted: ScriptedTorchServe
) -> None:
    """It is in the index and will be served: that is said, instead of waiting for ever or claiming it is lost."""
    gateway = start_gateway(store=own_store.root, deadline_s=0.3, poll_s=0.01)
    data = make(own_store, "owls")
    scripted.state["revision"] = read_index(own_store.root).revision
    scripted.lacks.add(sha256(data).hexdigest())
    response = put(gateway, "owls", data)
    assert response.status_code == 202
    assert response.json()["state"] == "loading"
    assert "serves revision" in response.json()["reason"]
    assert "owls" in read_index(own_store.root).datasets


def test_a_change_that_a_stage_refuses_is_202_with_its_reason(
    start_gateway: StartGateway, own_store: LocalStore, scripted: ScriptedTorchServe
) -> None:
    """The index has it, but nobody can ask it: no 201 that would be taken for served."""
    gateway = start_gateway(store=own_store.root, poll_s=0.01)
    data = make(own_store, "owls")
    scripted.lacks.add(sha256(data).hexdigest())
    scripted.state["revision"] = read_index(own_store.root).revision + 1
    response = put(gateway, "owls", data)
    assert (response.status_code, response.json()["state"]) == (202, "unavailable")
    assert "does not hold it" in response.json()["reason"]


def test_uploads_are_limited_in_number(gateway: RunningGateway, own_store: LocalStore) -> None:
    """Each holds a bundle in memory; a third at a time is told to come again."""
    data = make(own_store, "owls")
    go_on = threading.Event()

    def stall() -> Iterator[bytes]:
        yield data[:1000]
        go_on.wait()
        yield data[1000:]

    statuses: list[int] = []
    threads = [
        threading.Thread(target=lambda: statuses.append(put(gateway, "owls", stall()).status_code)) for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    try:
        wait_until(lambda: gateway.gateway.changes.under_way.count == 2)
        response = put(gateway, "owls", b"noise")
        check_error(response, 503, "service.overloaded")
        assert "retry-after" in response.headers
    finally:
        go_on.set()
        for thread in threads:
            thread.join()
    assert sorted(statuses) in ([200, 201], [201, 201])


def test_every_change_is_written_down(gateway: RunningGateway, own_store: LocalStore, audit: Any) -> None:
    """Who, what, which digest, from which revision to which, and what came of it."""
    data = make(own_store, "owls")
    digest = sha256(data).hexdigest()
    put(gateway, "owls", data, headers={"x-request-id": "first"})
    put(gateway, "owls", data)
    put(gateway, "owls", b"noise")
    gateway.http.delete("/v1/datasets/owls")
    lines = audit()
    assert [(line["act"], line["outcome"]) for line in lines] == [
        ("publish", "done"),
        ("publish", "unchanged"),
        ("publish", "failed"),
        ("remove", "done"),
    ]
    first = lines[0]
    assert (first["who"], first["dataset"], first["digest"]) == ("anonymous", "owls", digest)
    assert (first["request_id"], first["address"]) == ("first", "127.0.0.1")
    assert first["revision_after"] == first["revision_before"] + 1
    assert lines[1]["revision_after"] == lines[1]["revision_before"]
    assert "bundle.invalid" in lines[2]["reason"]


def test_listing_says_all_of_every_version(gateway: RunningGateway, own_store: LocalStore) -> None:
    """An operator sees what is served, since when, how large it is and what is wrong."""
    put(gateway, "birds", make(own_store, "birds"), params={"share": 0.5})
    listed = {each["name"]: each for each in gateway.http.get("/v1/datasets").json()["datasets"]}
    assert listed["birds"]["state"] == "ready"
    for version in listed["birds"]["versions"]:
        assert version["share"] == 0.5
        assert version["state"] == "ready"
        assert (version["tier"], version["num_classes"], version["test_accuracy"]) == ("host", 3, None)
        assert version["age_s"] >= 0
        file = own_store.bundle_path("birds", version["digest"])
        assert version["size_bytes"] == file.stat().st_size
        assert version["created"] == read_bundle(file).manifest.created
    (broken,) = listed["broken"]["versions"]
    assert (broken["state"], broken["size_bytes"], broken["age_s"]) == ("unavailable", None, None)
    assert "SHA-256" in broken["last_error"]
