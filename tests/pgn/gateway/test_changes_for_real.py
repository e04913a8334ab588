"""Data sets put, exchanged and removed while the real TorchServe serves: no request lost, none answered wrong."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from pgn.bundle import read_bundle
from pgn.images import read_square
from pgn.index import read_index
from pgn.method.backbone import load_backbone
from pgn.method.predictor import Predictor
from pgn.store.local import LocalStore
from tests.pgn.gateway.conftest import RunningGateway, running_gateway, wait_until
from tests.pgn.gateway.test_routes_predict import as_form
from tests.servers import RunningTorchServe, running_torchserve
from tests.toys import make_bundle, make_images, make_store

CLIENTS = 4
IMAGES = make_images(4)
PIXELS = torch.stack([torch.from_numpy(read_square(image, 32, interpolation="bicubic").copy()) for image in IMAGES])


class Versions:
    """Bundles of one data set, and what each answers, computed in this process."""

    def __init__(self, store: LocalStore, folder: Path, dataset: str, count: int) -> None:
        backbone = load_backbone(store.backbone_folder(read_index(store.root).backbone))
        paths = [make_bundle(folder, dataset, backbone.digest, seed=200 + seed) for seed in range(count)]
        bundles = [read_bundle(path) for path in paths]
        self.paths = paths
        self.names = [bundle.version for bundle in bundles]
        self.answers = {
            bundle.version: Predictor(backbone, bundle).probabilities(PIXELS).max(dim=1).values.tolist()
            for bundle in bundles
        }


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[LocalStore, RunningTorchServe]]:
    """A TorchServe over a store of its own."""
    folder = tmp_path_factory.mktemp("changing")
    store = make_store(folder / "store", ["flowers", "pets"])
    with running_torchserve(store.root, folder) as server:
        yield store, server


@pytest.fixture(scope="module")
def gateways(served: tuple[LocalStore, RunningTorchServe]) -> Iterator[list[RunningGateway]]:
    """Two gateways in front of it."""
    _, server = served
    with (
        running_gateway(server.settings, server.config) as one,
        running_gateway(server.settings, server.config) as other,
    ):
        one.wait_ready()
        other.wait_ready()
        yield [one, other]


def exchange(
    gateways: list[RunningGateway], versions: Versions, dataset: str, *, pause_s: float, others: tuple[str, ...]
) -> int:
    """Put one version after the other while clients ask through both gateways; how many answers were checked."""
    done = threading.Event()
    assert gateways[0].http.put(f"/v1/datasets/{dataset}", content=versions.paths[0].read_bytes()).status_code == 201

    def ask(client: int) -> set[str]:
        seen = set()
        number = 0
        while not done.is_set():
            number += 1
            image = number % len(IMAGES)
            query = {"datasets": ",".join([dataset, *others])}
            response = gateways[(client + number) % 2].http.post("/v1/predict", params=query, content=IMAGES[image])
            assert response.status_code == 200, response.text
            result = response.json()["results"][0]
            expected = versions.answers[result["version"]][image]
            assert result["predictions"][0]["probability"] == pytest.approx(expected, abs=1e-5)
            seen.add(result["version"])
        return seen

    with ThreadPoolExecutor(CLIENTS) as clients:
        wait_until(lambda: gateways[1].post(IMAGES[0], dataset).status_code == 200)
        asking = [clients.submit(ask, client) for client in range(CLIENTS)]
        try:
            for place, path in enumerate(versions.paths[1:]):
                time.sleep(pause_s)
                answer = gateways[place % 2].http.put(f"/v1/datasets/{dataset}", content=path.read_bytes())
                assert (answer.status_code, answer.json()["state"]) == (201, "ready"), answer.text
        finally:
            done.set()
        seen = set().union(*(each.result() for each in asking))
    return len(seen)


def test_versions_exchanged_under_load_lose_no_request_and_answer_as_what_they_name(
    served: tuple[LocalStore, RunningTorchServe], gateways: list[RunningGateway], tmp_path: Path
) -> None:
    """Each answer is, to 1e-5, that of the version it names: neither a mixture nor the one before."""
    versions = Versions(served[0], tmp_path, "owls", 6)
    assert exchange(gateways, versions, "owls", pause_s=0.0, others=("flowers", "pets")) >= 3


@pytest.mark.slow
def test_a_version_each_second_for_a_minute(
    served: tuple[LocalStore, RunningTorchServe], gateways: list[RunningGateway], tmp_path: Path
) -> None:
    """The same for longer, so that versions leave the stages while requests flow."""
    versions = Versions(served[0], tmp_path, "hawks", 60)
    assert exchange(gateways, versions, "hawks", pause_s=1.0, others=("pets",)) > 30


def test_a_removed_data_set_is_asked_of_no_stage(
    served: tuple[LocalStore, RunningTorchServe], gateways: list[RunningGateway], tmp_path: Path
) -> None:
    """Also through the gateway that did not remove it; and what is rolled back answers as before."""
    versions = Versions(served[0], tmp_path, "crows", 2)
    for path in versions.paths:
        assert gateways[0].http.put("/v1/datasets/crows", content=path.read_bytes()).status_code == 201
    assert gateways[0].post(IMAGES[0], "crows").json()["results"][0]["version"] == versions.names[1]
    assert gateways[0].http.post("/v1/datasets/crows/rollback").status_code == 200
    assert gateways[0].post(IMAGES[0], "crows").json()["results"][0]["version"] == versions.names[0]
    assert gateways[0].http.delete("/v1/datasets/crows").status_code == 200
    assert gateways[0].post(IMAGES[0], "crows").status_code == 404
    wait_until(lambda: gateways[1].post(IMAGES[0], "crows").status_code == 404)


def test_what_another_process_adds_is_served(
    served: tuple[LocalStore, RunningTorchServe], gateways: list[RunningGateway], tmp_path: Path
) -> None:
    """`pgn add` beside a running service: several images about it are answered in their order."""
    versions = Versions(served[0], tmp_path, "wrens", 1)
    served[0].publish(versions.paths[0])
    wait_until(lambda: gateways[0].post(IMAGES[0], "wrens").status_code == 200)
    response = gateways[0].http.post("/v1/datasets/wrens/predict?embedding=true", **as_form(IMAGES))
    results = response.json()["results"]
    assert [result["image"] for result in results] == list(range(len(IMAGES)))
    assert [len(result["embedding"]) for result in results] == [16] * len(IMAGES)
    found = [result["predictions"][0]["probability"] for result in results]
    assert found == pytest.approx(versions.answers[versions.names[0]], abs=1e-5)
