"""The real TorchServe: right answers through its own door, and no thread more after any number of faults."""

from __future__ import annotations

import base64
import json
import os
import shutil
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from pgn.archive import Archives
from pgn.backbone_spec import read_spec
from pgn.errors import DiskFull, JavaMissing, PortTaken
from pgn.images import read_square
from pgn.index import read_index
from pgn.message import Message, Request, Target, decode, encode
from pgn.method.backbone import load_backbone
from pgn.method.predictor import Predictor
from pgn.serve.torchserve import TorchServe
from pgn.settings import Settings, read_torchserve_config
from pgn.stages.rows import MAX_ANSWER_BYTES
from pgn.store.local import LocalStore
from tests.servers import ROOT, RunningTorchServe, call, make_settings, wait_until, write_config
from tests.toys import make_images

IMAGES = make_images(12)
DATASETS = ("flowers", "pets", "shapes")
Scores = dict[str, float]


@pytest.fixture(scope="module")
def expected(mixed_store: LocalStore) -> dict[tuple[str, int], Scores]:
    """In-process answers by data set and number of the image."""
    index = read_index(mixed_store.root)
    backbone = load_backbone(mixed_store.backbone_folder(index.backbone))
    preprocess = backbone.spec.preprocess
    answers = {}
    for dataset in DATASETS:
        digest = index.datasets[dataset].versions[0].digest
        predictor = Predictor(backbone, mixed_store.read(dataset, digest, backbone=index.backbone))
        for number, image in enumerate(IMAGES):
            square = read_square(image, preprocess.size, interpolation=preprocess.interpolation)
            scores = predictor.probabilities(torch.tensor(square)[None])[0].tolist()
            answers[dataset, number] = dict(zip(predictor.manifest.classes, scores, strict=True))
    return answers


def scores_of(answer: dict[str, Any]) -> Scores:
    (result,) = answer["results"]
    return {each["label"]: each["probability"] for each in result["predictions"]}


@pytest.mark.parametrize("dataset", DATASETS)
def test_a_direct_call_answers_as_in_process(
    torchserve: RunningTorchServe, expected: dict[tuple[str, int], Scores], dataset: str
) -> None:
    """`curl -F image=@x.png -F dataset=digits` needs no gateway; probabilities agree to 1e-5."""
    status, answer = torchserve.predict(IMAGES[3], dataset)
    assert status == 200
    assert scores_of(answer) == pytest.approx(expected[dataset, 3], abs=1e-5)


def test_json_with_base64_is_answered_too(
    torchserve: RunningTorchServe, expected: dict[tuple[str, int], Scores]
) -> None:
    """For callers without multipart."""
    fields = {"image": base64.b64encode(IMAGES[1]).decode(), "dataset": "pets", "top_k": 1}
    _, answer = torchserve.ask(json.dumps(fields).encode(), "application/json")
    ((label, probability),) = scores_of(answer).items()
    assert probability == pytest.approx(max(expected["pets", 1].values()), abs=1e-5)
    assert expected["pets", 1][label] == pytest.approx(probability, abs=1e-5)


def test_the_two_models_can_be_asked_one_after_the_other(
    torchserve: RunningTorchServe, mixed_store: LocalStore, expected: dict[tuple[str, int], Scores]
) -> None:
    """This is the gateway's way: prompts only, then image and prompts."""
    spec, _ = read_spec(mixed_store.backbone_folder(read_index(mixed_store.root).backbone))
    square = read_square(IMAGES[2], spec.preprocess.size, interpolation=spec.preprocess.interpolation)
    message = Message(Request(id="a", targets=(Target(dataset="shapes"),), reply="prompts"), square[None])
    inference = torchserve.config.inference
    prompted = decode(call("POST", f"{inference}/predictions/pgn__pgn", encode(message))[1])
    whole = Message(prompted.request, message.images, prompted.prompts)
    answer = json.loads(call("POST", f"{inference}/predictions/pgn__vit", encode(whole))[1])
    assert answer["request_id"] == "a"
    assert scores_of(answer) == pytest.approx(expected["shapes", 2], abs=1e-5)


BAD = {
    "unknown data set": (IMAGES[0], "petz", "dataset.unknown"),
    "no image": (b"hello", "pets", "image.unsupported"),
    "empty": (b"", "pets", "request.empty"),
    "cut short": (IMAGES[0][:300], "pets", "image.unreadable"),
    "changed byte": (IMAGES[0], "broken", "dataset.unavailable"),
    "another backbone": (IMAGES[0], "foreign", "dataset.unavailable"),
    "no file": (IMAGES[0], "lost", "dataset.unavailable"),
}


@pytest.mark.parametrize(("image", "dataset", "code"), BAD.values(), ids=BAD.keys())
def test_a_bad_request_is_answered_with_its_error(
    torchserve: RunningTorchServe, image: bytes, dataset: str, code: str
) -> None:
    """TorchServe keeps no status of a workflow, so the body tells; the next request is answered as ever."""
    status, answer = torchserve.predict(image, dataset)
    assert status == 200
    assert answer["error"]["code"] == code
    assert answer["error"].keys() == {"code", "message", "hint", "request_id"}
    assert "results" in torchserve.predict(IMAGES[0], "pets")[1]


def test_an_empty_body_is_answered(torchserve: RunningTorchServe) -> None:
    """So is one that is nothing at all."""
    assert torchserve.ask(b"", "application/octet-stream")[1]["error"]["code"] == "request.empty"


def good(server: RunningTorchServe, expected: dict[tuple[str, int], Scores], number: int) -> bool:
    dataset, image = DATASETS[number % 3], number % len(IMAGES)
    status, answer = server.predict(IMAGES[image], dataset)
    return status == 200 and scores_of(answer) == pytest.approx(expected[dataset, image], abs=1e-5)


def bad(server: RunningTorchServe, number: int) -> bool:
    image, dataset, code = list(BAD.values())[number % len(BAD)]
    status, answer = server.predict(image, dataset)
    return status == 200 and bool(answer["error"]["code"] == code)


def ask_all(task: Callable[[int], bool], count: int, clients: int) -> list[int]:
    """The numbers of the requests that were not answered right."""
    with ThreadPoolExecutor(clients) as pool:
        return [number for number, right in enumerate(pool.map(task, range(count))) if not right]


@pytest.mark.parametrize(
    ("count", "clients", "bad_every"), [(500, 8, 1), (2000, 16, 20)], ids=["500 bad", "2000 mixed"]
)
def test_load_is_answered_right_and_leaves_no_thread(
    torchserve: RunningTorchServe,
    expected: dict[tuple[str, int], Scores],
    count: int,
    clients: int,
    bad_every: int,
) -> None:
    """TorchServe leaks a thread or two for each request that fails in a workflow; here none fails."""

    def task(number: int) -> bool:
        return good(torchserve, expected, number) if number % bad_every else bad(torchserve, number // bad_every)

    assert ask_all(lambda number: good(torchserve, expected, number), 20 * clients, clients) == []  # threads it keeps
    before = torchserve.jvm.num_threads()
    assert ask_all(task, count, clients) == []
    wait_until(lambda: torchserve.jvm.num_threads() <= before + clients, "the JVM's threads to end")


def test_the_workflow_can_be_unregistered_where_there_is_no_kill(
    archives_without_stages: Archives, mixed_store: LocalStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TorchServe runs a program of that name, which slim images do not have."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
    server = TorchServe(make_settings(mixed_store.root, tmp_path), archives=archives_without_stages)
    try:
        path = server._environment(tmp_path)["PATH"].split(os.pathsep)
        assert (Path(path[0]) / "kill").stat().st_mode & 0o100
        assert path[1:] == [str(tmp_path)]
    finally:
        server.close()


@pytest.fixture
def archives_without_stages(tmp_path: Path) -> Archives:
    """A folder that is never served from."""
    return Archives(tmp_path)


def test_a_taken_port_is_named_with_the_line_to_change(mixed_store: LocalStore, tmp_path: Path) -> None:
    """TorchServe itself ends with a stack trace, with status 0."""
    settings = make_settings(mixed_store.root, tmp_path)
    port = read_torchserve_config(settings.torchserve_config).ports[3]
    with socket.create_server(("127.0.0.1", port)), pytest.raises(PortTaken) as raised:
        TorchServe(settings)
    assert str(port) in raised.value.message
    assert raised.value.hint == f"change grpc_inference_port in {settings.torchserve_config}"


def test_no_java_is_told_before_anything_is_built(
    mixed_store: LocalStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line, with what to install."""
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    with pytest.raises(JavaMissing):
        TorchServe(make_settings(mixed_store.root, tmp_path / "config"))


def test_a_full_disk_at_start_is_one_line(
    archives_without_stages: Archives, mixed_store: LocalStore, tmp_path: Path
) -> None:
    """Nothing was started, and the run folder is gone."""
    server = TorchServe(make_settings(mixed_store.root, tmp_path), archives=archives_without_stages)
    (server.run.path / "log4j2.xml").symlink_to("/dev/full")
    try:
        with pytest.raises(DiskFull, match=str(server.run.path)):
            server.start()
    finally:
        server.close()
    assert not server.run.path.exists()


def test_only_settings_files_and_loopback_count(
    archives_without_stages: Archives, mixed_store: LocalStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What TorchServe takes from the environment would beat config.properties."""
    for name in ("TS_CONFIG_FILE", "TEMP", "LOG_LOCATION", "METRICS_LOCATION", "PYTHONPATH"):
        monkeypatch.setenv(name, "/elsewhere")
    server = TorchServe(make_settings(mixed_store.root, tmp_path), archives=archives_without_stages)
    try:
        environment = server._environment(tmp_path)
    finally:
        server.close()
    assert "/elsewhere" not in environment.values()
    assert environment["PGN_STORE"] == str(mixed_store.root.resolve())


class TestConfigProperties:
    def test_every_address_is_loopback(self) -> None:
        """TorchServe trusts whoever reaches it."""
        lines = (ROOT / "config.properties").read_text().splitlines()
        addresses = [line.split("=")[1] for line in lines if "_address=" in line]
        assert len(addresses) == 5
        assert all("127.0.0.1" in address for address in addresses)

    def test_an_answer_that_stage_pgn_allows_fits(self, tmp_path: Path) -> None:
        """A larger one kills the worker; the header of a message takes some room too."""
        values = dict(line.split("=", 1) for line in write_config(tmp_path).read_text().splitlines() if "=" in line)
        assert int(values["max_response_size"]) >= MAX_ANSWER_BYTES + 2**19
        assert int(values["max_request_size"]) >= int(values["max_response_size"])

    def test_the_queue_holds_all_that_the_gateway_lets_in(self) -> None:
        """A full queue is an error 500 that leaks threads."""
        config = read_torchserve_config(ROOT / "config.properties")
        assert config.job_queue_size > Settings().max_in_flight
