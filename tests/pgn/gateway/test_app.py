"""The gateway over real HTTP with a scripted TorchServe behind it: answers, and every wrong input."""

from __future__ import annotations

import base64
import json
import re
import struct
import subprocess
import sys
import threading
import zlib
from collections.abc import Iterator
from functools import partial
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from pgn.errors import DatasetUnavailable, MessageInvalid, RequestTooLarge, SetupError
from pgn.gateway.app import create_app
from pgn.gateway.datasets import read_catalog
from pgn.message import Answer
from pgn.settings import Settings
from pgn.store.local import LocalStore
from tests.pgn.gateway.conftest import RunningGateway, StartGateway, wait_until
from tests.pgn.gateway.scripted import ScriptedTorchServe, answer_prompts, carry, fail, hold, lose, reset, say
from tests.toys import make_images, png

IMAGE = make_images(1)[0]


def check_error(response: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """The error's fields, once the response is the one shape that errors have."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    assert response.json().keys() == {"error"}
    fields: dict[str, Any] = response.json()["error"]
    assert fields.keys() == {"code", "message", "hint", "request_id"}
    assert fields["code"] == code
    assert fields["request_id"] == response.headers["x-request-id"]
    return fields


def bomb(side: int) -> bytes:
    """A PNG whose header announces side x side pixels over a few bytes of data."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


def test_one_data_set_answers_with_its_version(gateway: RunningGateway) -> None:
    """The answer names who was asked, in which version, and its classes, most probable first."""
    response = gateway.post(IMAGE)
    answer = Answer.model_validate_json(response.content)
    assert response.status_code == 200
    assert answer.request_id == response.headers["x-request-id"]
    (result,) = answer.results
    assert (result.image, result.dataset) == (0, "birds")
    assert result.version == gateway.gateway.catalog.find("birds").main.name
    assert [prediction.label for prediction in result.predictions] == ["class 0", "class 1", "class 2"]


def test_several_data_sets_need_one_decode_and_one_message_each_way(
    gateway: RunningGateway, scripted: ScriptedTorchServe
) -> None:
    """Asking N data sets about one image costs one visit to each stage, and keeps their order."""
    before = scripted.count("pgn"), scripted.count("vit")
    decodes = gateway.gateway.metrics.registry.get_sample_value("pgn_decode_seconds_count")
    response = gateway.http.post("/v1/predict?datasets=digits,birds", content=IMAGE)
    assert [result["dataset"] for result in response.json()["results"]] == ["digits", "birds"]
    assert (scripted.count("pgn"), scripted.count("vit")) == (before[0] + 1, before[1] + 1)
    assert gateway.gateway.metrics.registry.get_sample_value("pgn_decode_seconds_count") == (decodes or 0) + 1


@pytest.mark.parametrize("way", ["raw", "curl", "form", "json"])
def test_every_way_to_send_an_image_is_the_same_image(gateway: RunningGateway, way: str) -> None:
    """A caller chooses how to send; the pixels, and so the answer, do not depend on it."""
    sent: dict[str, dict[str, Any]] = {
        "raw": {"content": IMAGE, "headers": {"content-type": "image/png"}},
        "curl": {"content": IMAGE, "headers": {"content-type": "application/x-www-form-urlencoded"}},
        "form": {"files": {"image": ("x.png", IMAGE, "image/png")}},
        "json": {"json": {"image": base64.b64encode(IMAGE).decode()}},
    }
    response = gateway.http.post("/v1/datasets/birds/predict", **sent[way])
    assert response.status_code == 200, response.text
    assert response.json()["results"] == gateway.post(IMAGE).json()["results"]


def test_top_k_limits_the_classes(gateway: RunningGateway) -> None:
    """`?top_k=` reaches the stages."""
    assert len(gateway.post(IMAGE, params={"top_k": 2}).json()["results"][0]["predictions"]) == 2


@pytest.mark.parametrize("query", ["top_k=0", "top_k=1001", "top_k=x", "top_k=1.5", "topk=3"])
def test_wrong_parameters_are_400_naming_them(gateway: RunningGateway, query: str) -> None:
    """A parameter that cannot be read is refused by name, a misspelt one too, rather than passed over."""
    fields = check_error(gateway.post(IMAGE, params=dict([query.split("=")])), 400, "request.invalid")
    assert query.split("=")[0] in fields["message"]


@pytest.mark.parametrize("query", ["", "?datasets=", "?datasets=birds,birds", "?datasets=" + ",".join(["birds"] * 65)])
def test_a_wrong_list_of_data_sets_is_refused(gateway: RunningGateway, query: str) -> None:
    """None, an empty name, the same name twice, and more than a message holds are the client's to mend."""
    response = gateway.http.post(f"/v1/predict{query}", content=IMAGE)
    assert response.status_code in (400, 404)
    check_error(response, response.status_code, response.json()["error"]["code"])


def test_an_empty_body_is_400(gateway: RunningGateway) -> None:
    """The commonest mistake with curl gets its own words."""
    assert "0 bytes" in check_error(gateway.post(b""), 400, "request.empty")["message"]


def test_what_is_no_image_is_415(gateway: RunningGateway) -> None:
    """A PDF or a text is told apart from a damaged image."""
    check_error(gateway.post(b"%PDF-1.7 and so on"), 415, "image.unsupported")


def test_a_truncated_image_is_422(gateway: RunningGateway) -> None:
    """Half an upload is not silently read as half an image."""
    check_error(gateway.post(IMAGE[: len(IMAGE) // 2]), 422, "image.unreadable")


def test_an_unknown_data_set_is_404_with_near_names(gateway: RunningGateway) -> None:
    """A typo is answered with what was probably meant, never by the bare backbone."""
    fields = check_error(gateway.post(IMAGE, "bird"), 404, "dataset.unknown")
    assert "birds" in fields["message"]
    assert "digits" not in fields["message"]


def test_a_damaged_bundle_is_503_with_its_reason_and_blocks_no_other(gateway: RunningGateway) -> None:
    """One changed byte takes one data set out of service, and its clients are told which."""
    response = gateway.post(IMAGE, "broken")
    fields = check_error(response, 503, "dataset.unavailable")
    assert "SHA-256" in fields["message"]
    assert "retry-after" not in response.headers  # trying again would not help
    assert gateway.post(IMAGE).status_code == 200


@pytest.mark.parametrize("is_streamed", [False, True])
def test_a_body_over_the_limit_is_413(start_gateway: StartGateway, is_streamed: bool) -> None:
    """The limit holds with and without Content-Length, and the connection can be used again."""
    gateway = start_gateway(max_body_bytes=1000)
    body = b"x" * 200_000

    def stream() -> Iterator[bytes]:
        for start in range(0, len(body), 10_000):
            yield body[start : start + 10_000]

    check_error(gateway.post(stream() if is_streamed else body), 413, "request.too_large")
    assert gateway.post(IMAGE[:900]).status_code == 422


def test_a_body_of_exactly_the_limit_is_read(start_gateway: StartGateway) -> None:
    """The limit is the largest body, not the first one too large."""
    gateway = start_gateway(max_body_bytes=len(IMAGE))
    assert gateway.post(IMAGE).status_code == 200
    check_error(gateway.post(IMAGE + b"x"), 413, "request.too_large")


@pytest.mark.parametrize("side", [8_000, 40_000])
def test_a_decompression_bomb_is_refused_before_it_is_decoded(gateway: RunningGateway, side: int) -> None:
    """A header that announces gigapixels costs no memory: had it been decoded, the missing data were 422."""
    fields = check_error(gateway.post(bomb(side)), 413, "image.too_many_pixels")
    assert "50,000,000" in fields["message"]


def test_the_limit_of_pixels_is_the_settings(start_gateway: StartGateway) -> None:
    """An operator may lower it."""
    gateway = start_gateway(max_pixels=40 * 40 - 1)
    assert "1,599" in check_error(gateway.post(IMAGE), 413, "image.too_many_pixels")["message"]


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b"{", "application/json"),
        (b"[" * 100_000, "application/json"),
        (b"\xff\xfe", "application/json"),
        (b'"image"', "application/json"),
        (b"{}", "application/json"),
        (b'{"image": 5}', "application/json"),
        (b'{"image": "no base64!"}', "application/json"),
        (b'{"image": "aGVsbG8"}', "application/json; charset=utf-8"),
        (b'{"image": "", "dataset": "birds"}', "application/json"),
        (b"no form", "multipart/form-data; boundary=b"),
        (b"--b\r\n", "multipart/form-data"),
        (
            b'--b\r\nContent-Disposition: form-data; name="file"\r\n\r\nx\r\n--b--\r\n',
            "multipart/form-data; boundary=b",
        ),
        (b"--b--\r\n", "multipart/form-data; boundary=b"),
        (b'--b\r\nContent-Disposition: form-data; name="image"\r\n\r\nhalf', "multipart/form-data; boundary=b"),
    ],
)
def test_a_malformed_body_is_400(gateway: RunningGateway, body: bytes, content_type: str) -> None:
    """Bad JSON, bad base64, and forms without the one field `image` are told apart from bad images."""
    check_error(gateway.post(body, headers={"content-type": content_type}), 400, "request.malformed")


@given(
    body=st.binary(max_size=300),
    kind=st.sampled_from(["image/png", "application/json", "multipart/form-data; boundary=b"]),
)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_bytes_at_all_are_the_services_fault(gateway: RunningGateway, body: bytes, kind: str) -> None:
    """Whatever is sent, the answer is one of the client's errors in the one shape."""
    response = gateway.post(body, headers={"content-type": kind})
    assert response.status_code in (400, 413, 415, 422)
    check_error(response, response.status_code, response.json()["error"]["code"])


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nothing/here", 404, "request.unknown_path"),
        ("GET", "/v1/datasets/", 404, "request.unknown_path"),
        ("GET", "/v1/predict", 405, "request.wrong_method"),
        ("GET", "/v1/datasets/nope", 404, "dataset.unknown"),
        ("POST", "/v1/predict?datasets=birds&top_k=x", 400, "request.invalid"),
    ],
)
def test_the_frameworks_own_errors_have_our_shape(
    gateway: RunningGateway, method: str, path: str, status: int, code: str
) -> None:
    """A client needs one parser for errors, whoever raised them."""
    response = gateway.http.request(method, path)
    check_error(response, status, code)
    assert ("allow" in response.headers) == (status == 405)


def test_a_sane_request_id_is_kept_and_others_are_replaced(gateway: RunningGateway) -> None:
    """The caller's id ties its log to ours, but nothing that could forge a log line or a header gets in."""
    kept = gateway.post(IMAGE, headers={"x-request-id": "order-7.a:b"})
    assert kept.headers["x-request-id"] == "order-7.a:b" == kept.json()["request_id"]
    for wrong in ("a b", "x" * 129, "ä", ""):
        made = gateway.post(b"", headers=[(b"x-request-id", wrong.encode())])
        assert made.json()["error"]["request_id"] == made.headers["x-request-id"] != wrong
        assert len(made.headers["x-request-id"]) == 16


def test_overload_is_503_with_retry_after_at_once(start_gateway: StartGateway, scripted: ScriptedTorchServe) -> None:
    """Beyond the limit a request is refused while the accepted ones go on and are answered."""
    gateway = start_gateway(max_in_flight=2)
    go_on = threading.Event()
    scripted.script["pgn"] += [hold(go_on, answer_prompts)] * 2
    answers: list[int] = []
    threads = [threading.Thread(target=lambda: answers.append(gateway.post(IMAGE).status_code)) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        wait_until(lambda: gateway.gateway.in_flight.count == 2)
        response = gateway.post(IMAGE)
        check_error(response, 503, "service.overloaded")
        assert int(response.headers["retry-after"]) >= 1
    finally:
        go_on.set()
        for thread in threads:
            thread.join()
    assert answers == [200, 200]
    assert gateway.post(IMAGE).status_code == 200


def test_the_limit_has_to_be_below_torchserves_queue(store: LocalStore, scripted: ScriptedTorchServe) -> None:
    """A queue that fills would turn overload into errors of the stages."""
    with pytest.raises(SetupError, match="job_queue_size"):
        create_app(Settings(max_in_flight=100), scripted.config, read_catalog(store))


def test_no_answer_within_the_deadline_is_504(start_gateway: StartGateway, scripted: ScriptedTorchServe) -> None:
    """When both attempts are lost the request still ends, and its place is free again."""
    gateway = start_gateway(deadline_s=0.3)
    scripted.script["vit"] += [lose] * 2
    check_error(gateway.post(IMAGE), 504, "service.deadline")
    assert gateway.gateway.in_flight.count == 0


def test_a_body_that_never_ends_is_504(start_gateway: StartGateway) -> None:
    """A slow or stuck client gives its place back when the deadline has passed."""
    gateway = start_gateway(deadline_s=0.2)
    done = threading.Event()

    def stall() -> Iterator[bytes]:
        yield b"first"
        done.wait()

    statuses: list[int] = []
    thread = threading.Thread(target=lambda: statuses.append(gateway.post(stall()).status_code))
    thread.start()
    wait_until(lambda: gateway.gateway.in_flight.count == 1)
    wait_until(lambda: gateway.gateway.in_flight.count == 0)
    done.set()
    thread.join()
    assert statuses == [504]


@pytest.mark.parametrize("stage", ["pgn", "vit"])
@pytest.mark.parametrize("mishap", [lose, reset, fail(503), fail(500, "Worker died.")])
def test_one_mishap_is_mended_by_one_more_attempt(
    start_gateway: StartGateway, scripted: ScriptedTorchServe, stage: str, mishap: Any
) -> None:
    """A lost reply, a cut connection or a dead worker costs the client time, not its answer."""
    gateway = start_gateway(deadline_s=1)
    scripted.script[stage].append(mishap)
    assert gateway.post(IMAGE).status_code == 200
    retries = gateway.gateway.metrics.registry.get_sample_value("pgn_upstream_retries_total", {"stage": stage})
    assert retries == 1


@pytest.mark.parametrize("mishap", [reset, fail(503), fail(500, "Worker died."), say(b"", 413)])
def test_two_mishaps_are_503_and_no_third_attempt(
    gateway: RunningGateway, scripted: ScriptedTorchServe, mishap: Any
) -> None:
    """Retries of retries would turn a bad moment into a storm."""
    scripted.script["pgn"] += [mishap, mishap]
    before = scripted.count("pgn")
    response = gateway.post(IMAGE)
    check_error(response, 503, "service.stage_failed")
    assert "retry-after" in response.headers
    assert scripted.count("pgn") == before + 2


@pytest.mark.parametrize("body", [b"", b"{}", b"nonsense", b"[1]", b'{"error": 1}', b"\x08\0\0\0\0\0\0\0{}"])
@pytest.mark.parametrize("stage", ["pgn", "vit"])
def test_bytes_that_are_no_answer_are_503(
    gateway: RunningGateway, scripted: ScriptedTorchServe, stage: str, body: bytes
) -> None:
    """What a stage should never say reaches no client as an answer."""
    scripted.script[stage].append(say(body))
    check_error(gateway.post(IMAGE), 503, "service.stage_failed")


def test_another_requests_answer_is_never_passed_on(gateway: RunningGateway, scripted: ScriptedTorchServe) -> None:
    """A mix-up between rows of a batch would be a wrong answer that looks right."""
    other = Answer(request_id="somebody-else", results=()).model_dump_json().encode()
    scripted.script["vit"].append(say(other))
    assert "another request" in check_error(gateway.post(IMAGE), 503, "service.stage_failed")["message"]


@pytest.mark.parametrize("stage", ["pgn", "vit"])
def test_a_stages_own_error_becomes_the_answer(
    gateway: RunningGateway, scripted: ScriptedTorchServe, stage: str
) -> None:
    """Errors travel as data; the gateway gives them status and body, and does not try again."""
    for error in (DatasetUnavailable("bundle gone", hint="publish it"), RequestTooLarge("too many prompts")):
        before = scripted.count(stage)
        scripted.script[stage].append(carry(error, as_json=stage == "vit"))
        fields = check_error(gateway.post(IMAGE), error.status, error.code)
        assert (fields["message"], fields["hint"]) == (error.message, error.hint)
        assert scripted.count(stage) == before + 1


@pytest.mark.parametrize("stage", ["pgn", "vit"])
def test_a_message_that_a_stage_cannot_read_is_not_the_clients_fault(
    gateway: RunningGateway, scripted: ScriptedTorchServe, stage: str
) -> None:
    """The client sent an image, not a message; telling it to mend a message would mislead."""
    scripted.script[stage].append(carry(MessageInvalid("no schema"), as_json=stage == "vit"))
    check_error(gateway.post(IMAGE), 503, "service.stage_failed")


def test_a_fault_of_the_gateway_itself_is_500_in_our_shape(
    gateway: RunningGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody sees a traceback, and the id leads to it in the log."""

    def fall_over(*_: object) -> None:
        raise RuntimeError("secret detail")

    monkeypatch.setattr("pgn.gateway.answer.image_bytes", fall_over)
    fields = check_error(gateway.post(IMAGE), 500, "service.internal")
    assert "secret" not in str(fields)


def test_the_list_says_what_is_served_and_what_is_not(gateway: RunningGateway) -> None:
    """Clients choose by it, and operators see the reason of a data set that is out of service."""
    body = gateway.http.get("/v1/datasets").json()
    states = {each["name"]: each["state"] for each in body["datasets"]}
    assert states == {"birds": "ready", "boats": "ready", "broken": "unavailable", "digits": "ready"}
    assert body["backbone"] == "toy"
    assert "classes" not in body["datasets"][0]


def test_one_data_set_shows_its_classes(gateway: RunningGateway) -> None:
    """The classes come from the bundle that answers."""
    body = gateway.http.get("/v1/datasets/birds").json()
    assert body["classes"] == ["birds-0", "birds-1", "birds-2"]
    assert body["num_classes"] == 3
    assert body["digest"].startswith(body["version"])


def test_livez_answers_whatever_torchserve_does(start_gateway: StartGateway, scripted: ScriptedTorchServe) -> None:
    """A restart of the gateway would not bring TorchServe back."""
    scripted.is_registered = False
    scripted.refusals += [500] * 1000
    gateway = start_gateway(wait=False)
    assert gateway.http.get("/livez").status_code == 200
    assert gateway.http.get("/readyz").status_code == 503


def test_pictures_of_any_size_reach_the_stages_as_squares(gateway: RunningGateway) -> None:
    """The scripted stage answers with the brightness it was shown: the whole way of the pixels is real."""
    for size in ((5, 90), (300, 40), (1, 1)):
        response = gateway.post(png(Image.new("L", size, 51)))
        assert response.json()["results"][0]["predictions"][0]["probability"] == pytest.approx(0.2)


def tall(brightness: int = 51, height: int = 48) -> bytes:
    """A grey PNG as wide as the toy backbone's square."""
    return png(Image.new("RGB", (32, height), (brightness,) * 3))


def test_a_prompted_image_goes_to_stage_vit_alone(gateway: RunningGateway, scripted: ScriptedTorchServe) -> None:
    """Its prompts are its own pixels, so stage pgn has nothing to do, and nothing is scaled."""
    response = gateway.http.post("/v1/backbone/predict", params={"dataset": "birds", "top_k": 1}, content=tall())
    (result,) = response.json()["results"]
    assert result["dataset"] == "birds"
    assert result["predictions"] == [{"label": "class 0", "probability": pytest.approx(0.2)}]
    assert (scripted.count("pgn"), scripted.count("vit")) == (0, 1)


def test_without_a_data_set_the_answer_is_features(gateway: RunningGateway) -> None:
    """The frozen ViT alone, for callers with a head of their own."""
    body = gateway.http.post("/v1/backbone/predict", files={"image": tall()}).json()
    assert body["features"] == [[pytest.approx(0.2), 48.0]]
    assert body["request_id"]


@pytest.mark.parametrize(
    ("image", "status", "code"),
    [
        (b"", 400, "request.empty"),
        (b"no image", 422, "image.not_prompted"),
        (tall(height=20), 422, "image.not_prompted"),
        (tall(height=65), 422, "image.not_prompted"),
        (tall()[:60], 422, "image.unreadable"),
    ],
)
def test_what_is_no_prompted_image_is_refused(gateway: RunningGateway, image: bytes, status: int, code: str) -> None:
    """A guess would answer with other prompts than the client sent."""
    check_error(gateway.http.post("/v1/backbone/predict", content=image), status, code)


def test_a_prompted_image_knows_the_data_sets_too(gateway: RunningGateway) -> None:
    """Unknown and unavailable data sets answer as everywhere."""
    ask = partial(gateway.http.post, "/v1/backbone/predict", content=tall())
    assert ask(params={"dataset": "brids"}).status_code == 404
    assert ask(params={"dataset": "broken"}).status_code == 503
    assert ask(params={"datasets": "birds"}).status_code == 400


@pytest.mark.parametrize("reply", [b"{}", b'{"request_id": "other", "features": [[1.0]]}'])
def test_features_of_another_request_are_no_answer(
    gateway: RunningGateway, scripted: ScriptedTorchServe, reply: bytes
) -> None:
    """What the stage says is checked before it is handed on."""
    scripted.script["vit"].append(say(reply))
    check_error(gateway.http.post("/v1/backbone/predict", content=tall()), 503, "service.stage_failed")


def test_importing_the_gateway_loads_no_torch() -> None:
    """The gateway's container has no torch, and its start should not take seconds."""
    code = "import sys, pgn.gateway.__main__; print(json.dumps(sorted(sys.modules)))"
    loaded = json.loads(
        subprocess.run([sys.executable, "-c", f"import json; {code}"], capture_output=True, check=True).stdout
    )
    assert "fastapi" in loaded
    assert not {"torch", "timm", "open_clip"} & set(loaded)


def test_the_documentation_page_needs_no_internet(gateway: RunningGateway) -> None:
    """In a closed network /docs shows the API: every script and style sheet comes from the gateway itself."""
    page = gateway.http.get("/docs").text
    addresses = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert addresses
    assert all(address.startswith("/") and gateway.http.get(address).status_code == 200 for address in addresses)
