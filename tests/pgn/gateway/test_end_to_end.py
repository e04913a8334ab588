"""The gateway over the real TorchServe: right answers, among wrong input, dead workers and lost workflows."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import psutil
import pytest
import torch
from PIL import Image

from pgn.images import read_square
from pgn.message import Answer, Message, Request, Target, encode
from pgn.stages.pgn_stage import PgnStage
from pgn.stages.vit_stage import VitStage
from tests.pgn.gateway.conftest import RunningGateway, running_gateway, wait_until
from tests.servers import RunningTorchServe, call
from tests.toys import make_images, png

CLIENTS = 16
IMAGES = make_images(8)
DATASETS = ("flowers", "pets", "shapes")
InProcess = Callable[[bytes, Sequence[str]], Answer]


@pytest.fixture(scope="module")
def gateway(torchserve: RunningTorchServe) -> Iterator[RunningGateway]:
    """A gateway in front of the real thing."""
    with running_gateway(torchserve.settings, torchserve.config) as running:
        running.wait_ready()
        yield running


@pytest.fixture(scope="module")
def in_process(torchserve: RunningTorchServe) -> InProcess:
    """The same two stages called as plain functions, one image at a time."""
    cpu = torch.device("cpu")
    pgn, vit = PgnStage.load(torchserve.settings, cpu), VitStage.load(torchserve.settings, cpu)

    def answer(image: bytes, datasets: Sequence[str]) -> Answer:
        request = Request(id="in-process", targets=tuple(Target(dataset=name) for name in datasets))
        pixels = read_square(image, 32, interpolation="bicubic")
        (prompts,) = pgn.answer([{"body": encode(Message(request, pixels[None]))}])
        (body,) = vit.answer([{"body": prompts}])
        return Answer.model_validate_json(body)

    return answer


def check_same(response: httpx.Response, expected: Answer) -> None:
    """Same data sets, versions and labels, probabilities to 1e-5."""
    assert response.status_code == 200, response.text
    given = Answer.model_validate_json(response.content)
    assert [(r.dataset, r.version) for r in given.results] == [(r.dataset, r.version) for r in expected.results]
    for one, other in zip(given.results, expected.results, strict=True):
        assert [p.label for p in one.predictions] == [p.label for p in other.predictions]
        wanted = pytest.approx([p.probability for p in other.predictions], abs=1e-5)
        assert [p.probability for p in one.predictions] == wanted


def worker_pid(torchserve: RunningTorchServe, stage: str) -> int:
    """The process of a stage's only worker; 0 while there is none."""
    answer = json.loads(call("GET", f"{torchserve.config.management}/models/pgn__{stage}")[1])
    return int(answer[0]["workers"][0]["pid"])


@pytest.mark.parametrize("dataset", DATASETS)
def test_answers_over_rest_are_those_in_process(gateway: RunningGateway, in_process: InProcess, dataset: str) -> None:
    """Decoding, messages, batches and HTTP change nothing."""
    for image in IMAGES[:3]:
        check_same(gateway.post(image, dataset), in_process(image, [dataset]))


def test_several_data_sets_on_one_image_are_what_each_says_alone(
    gateway: RunningGateway, in_process: InProcess
) -> None:
    """Different numbers of prompts in one request, in the order that was asked for."""
    names = ["shapes", "flowers", "pets"]
    response = gateway.http.post("/v1/predict", params={"datasets": ",".join(names)}, content=IMAGES[0])
    alone = tuple(in_process(IMAGES[0], [name]).results[0] for name in names)
    check_same(response, Answer(request_id="alone", results=alone))


def test_a_prompted_image_answers_over_rest_as_in_process(
    gateway: RunningGateway, torchserve: RunningTorchServe
) -> None:
    """The frozen ViT behind a plain image interface: two rows of patches carry eight prompts."""
    pixels = np.random.default_rng(0).integers(0, 256, (48, 32, 3), dtype=np.uint8)
    vit = VitStage.load(torchserve.settings, torch.device("cpu"))
    digest = gateway.gateway.catalog.find("pets").main.digest
    image = png(Image.fromarray(pixels))
    for targets, query in (((Target(dataset="pets", digest=digest),), {"dataset": "pets"}), ((), {})):
        asked = Request(id="in-process", targets=targets, prompts_from="image")
        expected = json.loads(vit.answer([{"body": encode(Message(asked, pixels[None]))}])[0])
        given = gateway.http.post("/v1/backbone/predict", params=query, content=image).json()
        if targets:
            wanted = {each["label"]: each["probability"] for each in expected["results"][0]["predictions"]}
            found = {each["label"]: each["probability"] for each in given["results"][0]["predictions"]}
            assert found == pytest.approx(wanted, abs=1e-5)
        else:
            assert given["features"][0] == pytest.approx(expected["features"][0], abs=1e-5)


def test_data_sets_whose_bundle_does_not_verify_say_so(gateway: RunningGateway) -> None:
    """A changed byte, a missing file and a wrong backbone, each with its reason, while the others answer."""
    for dataset, reason in (("broken", "SHA-256"), ("lost", "cannot be read"), ("foreign", "backbone")):
        response = gateway.post(IMAGES[0], dataset)
        assert response.status_code == 503
        assert reason in response.json()["error"]["message"]


def test_two_thousand_mixed_requests_are_all_answered_right(
    gateway: RunningGateway, torchserve: RunningTorchServe, in_process: InProcess
) -> None:
    """One in twenty is bad; each gets its own answer or its own error, and the JVM has no thread more."""
    expected = {(n, name): in_process(image, [name]) for n, image in enumerate(IMAGES) for name in DATASETS}
    bad: list[tuple[bytes, str, int]] = [
        (b"", "flowers", 400),
        (b"no image", "pets", 415),
        (IMAGES[0][:200], "shapes", 422),
        (IMAGES[0], "flower", 404),
        (IMAGES[0], "broken", 503),
    ]

    def ask(number: int) -> None:
        if number % 20 == 0:
            body, dataset, status = bad[number // 20 % len(bad)]
            assert gateway.post(body, dataset).status_code == status
        else:
            image, dataset = number % len(IMAGES), DATASETS[number % len(DATASETS)]
            check_same(gateway.post(IMAGES[image], dataset), expected[image, dataset])

    with ThreadPoolExecutor(CLIENTS) as clients:
        list(clients.map(ask, range(200)))  # until then the JVM starts threads of its own
        threads = torchserve.jvm.num_threads()
        list(clients.map(ask, range(2000)))
    wait_until(lambda: torchserve.jvm.num_threads() <= threads)


def test_five_hundred_bad_requests_reach_no_stage(gateway: RunningGateway, torchserve: RunningTorchServe) -> None:
    """None hangs, and TorchServe has no thread more."""
    threads = torchserve.jvm.num_threads()
    with ThreadPoolExecutor(8) as clients:
        statuses = list(clients.map(lambda n: gateway.post(IMAGES[0][: n % 250], "flowers").status_code, range(500)))
    assert set(statuses) <= {400, 415, 422}
    wait_until(lambda: torchserve.jvm.num_threads() <= threads)


@pytest.mark.parametrize("stage", ["pgn", "vit"])
def test_a_killed_worker_costs_nobody_an_answer_if_the_deadline_allows(
    torchserve: RunningTorchServe, in_process: InProcess, stage: str
) -> None:
    """Under load, what was in the worker and what was lost with it is asked again and waits for the next one."""
    expected = in_process(IMAGES[0], ["pets"])
    killed = worker_pid(torchserve, stage)
    patient = torchserve.settings.model_copy(update={"deadline_s": 90.0})
    with running_gateway(patient, torchserve.config) as gateway:
        gateway.wait_ready()

        def ask(number: int) -> None:
            if number == 100:
                os.kill(killed, signal.SIGKILL)
            check_same(gateway.post(IMAGES[0], "pets"), expected)

        with ThreadPoolExecutor(CLIENTS) as clients:
            list(clients.map(ask, range(400)))
        metrics = gateway.http.get("/metrics").text
    assert f'pgn_upstream_retries_total{{stage="{stage}"}}' in metrics
    wait_until(lambda: worker_pid(torchserve, stage) not in (0, killed))


def test_a_workflow_unregistered_behind_its_back_is_registered_again(
    gateway: RunningGateway, torchserve: RunningTorchServe, in_process: InProcess
) -> None:
    """What a restart of TorchServe does, without the restart."""
    assert call("DELETE", f"{torchserve.config.management}/workflows/pgn")[0] == 200
    response = gateway.post(IMAGES[0], "pets")
    assert response.json()["error"]["code"] == "service.not_ready"
    assert response.status_code == 503
    gateway.wait_ready()
    check_same(gateway.post(IMAGES[0], "pets"), in_process(IMAGES[0], ["pets"]))
    assert psutil.pid_exists(worker_pid(torchserve, "vit"))
