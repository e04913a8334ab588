"""Predictions over HTTP beyond the plain case: several images, embeddings, keys, and what the stages are told."""

from __future__ import annotations

import base64
import time
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from PIL import Image

from pgn.gateway.keys import new_key
from pgn.message import Request, decode
from tests.pgn.gateway.conftest import RunningGateway, StartGateway
from tests.pgn.gateway.scripted import ScriptedTorchServe, answer_prompts
from tests.pgn.gateway.test_app import check_error, tall
from tests.toys import make_images, png

IMAGES = [png(Image.new("L", (40, 30), 51 * place)) for place in range(6)]


def as_form(images: list[bytes]) -> dict[str, Any]:
    return {"files": [("image", (f"{place}.png", image)) for place, image in enumerate(images)]}


def as_json(images: list[bytes]) -> dict[str, Any]:
    return {"json": {"images": [base64.b64encode(image).decode() for image in images]}}


@pytest.mark.parametrize("send", [as_form, as_json])
def test_several_images_are_answered_in_their_order(
    gateway: RunningGateway, scripted: ScriptedTorchServe, send: Any
) -> None:
    """One request, one message each way, and each image's result under its number."""
    response = gateway.http.post("/v1/datasets/birds/predict", **send(IMAGES))
    results = response.json()["results"]
    assert [result["image"] for result in results] == list(range(6))
    assert [result["predictions"][0]["probability"] for result in results] == [
        pytest.approx(place / 5) for place in range(6)
    ]
    assert (scripted.count("pgn"), scripted.count("vit")) == (1, 1)


def test_several_images_about_several_data_sets_come_image_by_image(gateway: RunningGateway) -> None:
    """Each image is decoded once, whoever is asked about it."""
    before = gateway.gateway.metrics.registry.get_sample_value("pgn_decode_seconds_count") or 0
    response = gateway.http.post("/v1/predict?datasets=digits,birds", **as_form(IMAGES[:2]))
    results = [(result["image"], result["dataset"]) for result in response.json()["results"]]
    assert results == [(0, "digits"), (0, "birds"), (1, "digits"), (1, "birds")]
    assert gateway.gateway.metrics.registry.get_sample_value("pgn_decode_seconds_count") == before + 1


def test_several_prompted_images_are_answered_in_their_order(gateway: RunningGateway) -> None:
    """Also if they carry different numbers of prompts, and so travel apart."""
    images = [tall(height=48), tall(height=40, brightness=102), tall(height=48, brightness=153)]
    results = gateway.http.post("/v1/backbone/predict?dataset=birds", **as_form(images)).json()["results"]
    assert [result["image"] for result in results] == [0, 1, 2]
    found = [result["predictions"][0]["probability"] for result in results]
    assert found == [pytest.approx(share) for share in (0.2, 0.4, 0.6)]
    features = gateway.http.post("/v1/backbone/predict", **as_form(images)).json()["features"]
    assert [row[1] for row in features] == [48, 40, 48]


@pytest.mark.parametrize(
    ("bad", "status", "code"),
    [
        (b"text", 415, "image.unsupported"),
        (make_images(1)[0][:200], 422, "image.unreadable"),
        (b"", 400, "request.empty"),
    ],
)
def test_a_bad_image_among_several_refuses_the_request_and_is_named(
    gateway: RunningGateway, scripted: ScriptedTorchServe, bad: bytes, status: int, code: str
) -> None:
    """Half an answer would have to be told apart from a whole one; the client learns which image to mend."""
    response = gateway.http.post("/v1/datasets/birds/predict", **as_form([*IMAGES[:2], bad, *IMAGES[2:4]]))
    assert "image 3 of 5" in check_error(response, status, code)["message"]
    assert scripted.count("pgn") == 0


def test_the_number_of_images_is_limited(start_gateway: StartGateway) -> None:
    """An operator says how much one request may ask."""
    gateway = start_gateway(max_images=2)
    assert gateway.http.post("/v1/datasets/birds/predict", **as_form(IMAGES[:2])).status_code == 200
    for send in (as_form, as_json):
        response = gateway.http.post("/v1/datasets/birds/predict", **send(IMAGES[:3]))
        assert "2" in check_error(response, 413, "request.too_large")["message"]


def test_embeddings_come_if_they_are_asked_for(gateway: RunningGateway) -> None:
    """They are long; whoever does not ask is not sent any."""
    assert "embedding" not in gateway.post(IMAGES[1]).json()["results"][0]
    result = gateway.post(IMAGES[1], params={"embedding": "true"}).json()["results"][0]
    assert result["embedding"] == [pytest.approx(51), 1.0]


def test_what_is_unknown_is_said(gateway: RunningGateway) -> None:
    """The stage compares with the bundle's threshold; the gateway passes on what it says."""
    unknown = [gateway.post(image).json()["results"][0]["unknown"] for image in IMAGES[:2]]
    assert unknown == [True, False]


def test_the_stages_learn_trace_and_deadline(gateway: RunningGateway, scripted: ScriptedTorchServe) -> None:
    """So that their logs belong to the caller's trace, and they do not work for somebody who has gone."""
    seen: list[Request] = []

    async def note(request: web.Request, body: bytes) -> web.StreamResponse:
        seen.append(decode(body).request)
        return await answer_prompts(request, body)

    scripted.script["pgn"].append(note)
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    assert gateway.post(IMAGES[1], headers={"traceparent": f"00-{trace}-00f067aa0ba902b7-01"}).status_code == 200
    (request,) = seen
    assert trace in (request.traceparent or "")
    assert 0 < (request.expires_at or 0) - time.time() <= gateway.gateway.settings.deadline_s


def test_a_key_sees_and_asks_its_own_data_sets_alone(start_gateway: StartGateway, tmp_path: Path) -> None:
    """Others are neither answered nor listed, nor given away by near names; and images are counted by key."""
    keys = tmp_path / "keys.toml"
    key = new_key(keys, "team-a", datasets=["birds"])
    gateway = start_gateway(keys=keys)
    gateway.http.headers["Authorization"] = f"Bearer {key}"

    assert gateway.http.post("/v1/datasets/birds/predict", **as_form(IMAGES[:3])).status_code == 200
    assert [each["name"] for each in gateway.http.get("/v1/datasets").json()["datasets"]] == ["birds"]
    for response in (
        gateway.post(IMAGES[0], "boats"),
        gateway.post(IMAGES[0], "boatz"),
        gateway.http.get("/v1/datasets/boats"),
        gateway.http.post("/v1/predict?datasets=birds,boats", content=IMAGES[0]),
        gateway.http.post("/v1/backbone/predict?dataset=boats", content=tall()),
        gateway.http.put("/v1/datasets/birds", content=b"x"),
        gateway.http.delete("/v1/datasets/birds"),
        gateway.http.post("/v1/datasets/birds/rollback"),
    ):
        fields = check_error(response, 403, "key.forbidden")
        assert "near names" not in fields["message"]
    sample = gateway.gateway.metrics.registry.get_sample_value
    assert sample("pgn_usage_images_total", {"key": "team-a", "dataset": "birds"}) == 3


def test_an_administrators_key_changes_its_own_data_sets_alone(start_gateway: StartGateway, tmp_path: Path) -> None:
    """A team may publish its own sets, and no other's."""
    keys = tmp_path / "keys.toml"
    key = new_key(keys, "team-a", datasets=["team-a-*"], admin=True)
    gateway = start_gateway(keys=keys)
    gateway.http.headers["X-API-Key"] = key
    check_error(gateway.http.put("/v1/datasets/birds", content=b"x"), 403, "key.forbidden")
    check_error(gateway.http.put("/v1/datasets/team-a-birds", content=b"x"), 422, "bundle.invalid")
    check_error(gateway.http.delete("/v1/datasets/team-a-none"), 404, "dataset.unknown")
