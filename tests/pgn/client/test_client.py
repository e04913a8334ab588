"""The client against a real gateway over a scripted TorchServe, and against things that are no gateway."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from PIL import Image

from pgn.client import Client, Prediction, Result
from pgn.errors import (
    ERRORS,
    BundleInvalid,
    DatasetUnavailable,
    DeadlineExceeded,
    EmptyBody,
    NotAnImage,
    NotReady,
    Overloaded,
    PgnError,
    PromptedImageInvalid,
    ServiceError,
    UnknownDataset,
    UsageError,
    VersionConflict,
)
from pgn.index import read_index
from pgn.store.local import LocalStore
from tests.toys import make_bundle, make_images, png

IMAGE = make_images(1)[0]
WHITE, BLACK = (png(Image.new("L", (40, 40), level)) for level in (255, 0))
RESULT = {"image": 0, "dataset": "birds", "version": "0" * 16, "predictions": [], "unknown": False}
CHANGE = {"dataset": "birds", "state": "ready", "reason": None, "versions": []}


def answering(status: int, body: bytes) -> Client:
    """A client of something that always answers this."""
    return Client("http://server", transport=httpx.MockTransport(lambda request: httpx.Response(status, content=body)))


def test_predict_returns_labels_and_probabilities(client: Client) -> None:
    """The shortest use: an image and a name in, classes out, the best first."""
    result = client.predict(IMAGE, "birds", top_k=2)
    assert (result.dataset, len(result), len(result.version)) == ("birds", 2, 16)
    assert result[0] == Prediction("class 0", result.predictions[0].probability)
    assert [prediction.label for prediction in result] == ["class 0", "class 1"]
    assert result[:1] == result.predictions[:1]


def test_an_image_may_be_a_file(client: Client, tmp_path: Path) -> None:
    """What lies on disk needs no opening first, and a missing file is a clear error."""
    (tmp_path / "x.png").write_bytes(IMAGE)
    assert client.predict(tmp_path / "x.png", "birds") == client.predict(IMAGE, "birds")
    with pytest.raises(UsageError, match=r"y\.png cannot be read"):
        client.predict(tmp_path / "y.png", "birds")


def test_predict_many_keeps_the_order(client: Client) -> None:
    """Results are found by position or by name."""
    results = client.predict_many(IMAGE, ["digits", "birds"])
    assert [result.dataset for result in results] == ["digits", "birds"]


def test_a_prompted_image_is_asked_about_with_a_head_or_for_features(client: Client) -> None:
    """The frozen ViT alone; a PNG of exactly its size."""
    image = png(Image.new("RGB", (32, 40), (51, 51, 51)))
    assert client.predict_prompted(image, "birds")[0].probability == pytest.approx(0.2)
    assert client.features(image) == (pytest.approx(0.2), 40.0)
    with pytest.raises(PromptedImageInvalid, match="40 x 40 pixels"):
        client.features(IMAGE)


def test_datasets_tell_what_is_served(client: Client) -> None:
    """The list is short; one data set comes with its classes."""
    states = {dataset.name: (dataset.state, dataset.reason) for dataset in client.datasets()}
    assert states["birds"] == ("ready", None)
    assert states["broken"][0] == "unavailable"
    assert "SHA-256" in (states["broken"][1] or "")
    assert client.dataset("birds").classes == ("birds-0", "birds-1", "birds-2")


def test_ready_is_a_condition_with_reasons(client: Client) -> None:
    """`if client.ready()` reads as it works."""
    assert client.ready()
    not_yet = answering(503, b'{"ready": false, "reasons": ["loading"]}').ready()
    assert not not_yet
    assert not_yet.reasons == ("loading",)


def test_errors_of_the_service_are_the_same_classes_here(client: Client) -> None:
    """A caller catches what the server raised, with its words and its request id."""
    with pytest.raises(EmptyBody):
        client.predict(b"", "birds")
    with pytest.raises(NotAnImage):
        client.predict(b"text", "birds")
    with pytest.raises(DatasetUnavailable):
        client.predict(IMAGE, "broken")
    with pytest.raises(UnknownDataset, match="birds") as raised:
        client.predict(IMAGE, "bird")
    assert raised.value.request_id
    with pytest.raises(PgnError):
        client.predict(IMAGE, "../../livez")


@pytest.mark.parametrize("code", sorted(ERRORS))
def test_every_error_survives_the_way(code: str) -> None:
    """Class, message and hint."""
    sent = ERRORS[code]("what was met", hint="what to do")
    client = answering(sent.status, json.dumps({"error": {**sent.to_wire(), "request_id": "r1"}}).encode())
    with pytest.raises(type(sent)) as raised:
        client.datasets()
    error = raised.value
    assert (type(error), error.message, error.hint, error.request_id) == (type(sent), sent.message, sent.hint, "r1")


def test_nobody_listening_is_an_error_that_names_the_url() -> None:
    """The commonest mistake: the service is not started, or elsewhere."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    with Client(url) as client, pytest.raises(ServiceError, match=url):
        client.ready()


def test_an_answer_that_does_not_come_is_a_missed_deadline() -> None:
    """A client never hangs: its time-out is its own."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with Client(url, timeout_s=0.1) as client, pytest.raises(DeadlineExceeded, match=r"within 0\.1 s"):
            client.predict(IMAGE, "birds")


def test_an_address_without_scheme_is_a_usage_error() -> None:
    """`localhost:8000` looks like an address and is none."""
    with Client("localhost:8000") as client, pytest.raises(UsageError, match="http://"):
        client.datasets()


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (200, b"<html>"),
        (200, b"{}"),
        (200, b"[]"),
        (502, b"<html>Bad gateway"),
        (404, b'{"detail": "Not Found"}'),
        (500, b""),
    ],
)
def test_something_else_at_the_address_is_told_apart(status: int, body: bytes) -> None:
    """A proxy or another service answers; its words are not taken for ours."""
    client = answering(status, body)
    for call in (client.datasets, client.ready, lambda: client.predict(IMAGE, "x"), lambda: client.dataset("x")):
        with pytest.raises(ServiceError, match=f"answers {status}") as raised:
            call()
        assert not isinstance(raised.value, NotReady)


def test_a_result_is_a_sequence() -> None:
    """It can be looped over, measured and sliced."""
    result = Result("a", "v", (Prediction("x", 0.75), Prediction("y", 0.25)))
    assert list(result) == list(result.predictions)
    assert Prediction("y", 0.25) in result


def test_several_images_are_one_request(client: Client) -> None:
    """For each image, in order, what each data set says; bytes and files may be mixed."""
    answers = client.predict_batch([WHITE, BLACK, WHITE], ["digits", "birds"], top_k=1)
    assert [[result.dataset for result in results] for results in answers] == [["digits", "birds"]] * 3
    assert [results[0][0].probability for results in answers] == [1.0, 0.0, 1.0]
    with pytest.raises(NotAnImage, match="image 2 of 3"):
        client.predict_batch([WHITE, b"text", WHITE], ["birds"])


def test_unknown_and_embedding_are_told(client: Client) -> None:
    """What the bundle's threshold says, and the features if they are asked for."""
    assert [client.predict(image, "birds").unknown for image in (BLACK, WHITE)] == [True, False]
    assert client.predict(WHITE, "birds").embedding is None
    assert client.predict(WHITE, "birds", embedding=True).embedding == (255.0, 1.0)


def test_any_number_of_images_is_asked_about_in_order(client: Client, tmp_path: Path) -> None:
    """More than one request holds; the caller need not know the limits."""
    images = [WHITE, BLACK] * 30
    answers = [results[0][0].probability for results in client.predict_all(images, ["birds"])]
    assert answers == [1.0, 0.0] * 30


def test_of_many_images_the_one_that_is_refused_is_named(client: Client, tmp_path: Path) -> None:
    """What stands before it is answered first."""
    (tmp_path / "bad.png").write_bytes(b"text")
    answers = client.predict_all([WHITE, BLACK, tmp_path / "bad.png", WHITE], ["birds"])
    assert next(answers)[0][0].probability == 1.0
    assert next(answers)[0][0].probability == 0.0
    with pytest.raises(NotAnImage, match=r"bad\.png: "):
        next(answers)


def test_a_bundle_is_put_tried_rolled_back_and_removed(own_client: Client, own_store: LocalStore) -> None:
    """All that an administrator does from the command line of the store works from afar, too."""
    bundle = make_bundle(own_store.root / "made", "owls", read_index(own_store.root).backbone, seed=50)
    put = own_client.put("owls", bundle)
    assert (put.dataset, put.state, put.reason) == ("owls", "ready", None)
    assert own_client.put("owls", bundle.read_bytes()).revision == put.revision
    assert own_client.put("owls", bundle, signature=b"{}").state == "ready"
    other = make_bundle(own_store.root / "made", "owls", read_index(own_store.root).backbone, seed=51)
    assert [version.share for version in own_client.put("owls", other, share=0.25).versions] == [0.25, 0.75]

    owls = own_client.dataset("owls")
    assert [version.state for version in owls.versions] == ["ready", "ready"]
    assert own_client.rollback("owls").versions[0].digest == put.versions[0].digest
    with pytest.raises(VersionConflict):
        own_client.rollback("owls")
    assert own_client.remove("owls").state == "removed"
    with pytest.raises(UnknownDataset):
        own_client.remove("owls")
    with pytest.raises(BundleInvalid):
        own_client.put("owls", b"noise")


def test_a_key_is_sent_from_the_argument_or_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys belong into neither programs nor URLs."""
    seen = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request.headers.get("authorization"))
        return httpx.Response(200, json={"datasets": []})

    def ask(**arguments: str) -> None:
        with Client("http://server", transport=httpx.MockTransport(answer), **arguments) as client:
            client.datasets()

    ask()
    monkeypatch.setenv("PGN_API_KEY", "from-environment")
    ask()
    ask(key="from-argument")
    assert seen == [None, "Bearer from-environment", "Bearer from-argument"]


def refusing(times: int, status: int = 503, wait_s: int = 0) -> tuple[list[str], Client]:
    """A client of a service that refuses so often, and the methods that it has seen."""
    seen: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request.method)
        if len(seen) <= times:
            error = {"error": {**Overloaded("busy").to_wire(), "request_id": "r"}}
            return httpx.Response(status, json=error, headers={"Retry-After": str(wait_s)})
        return httpx.Response(200, json={"results": [RESULT], "revision": 1, **CHANGE})

    return seen, Client("http://server", timeout_s=5, transport=httpx.MockTransport(answer))


@pytest.mark.parametrize("status", [429, 503])
def test_what_may_be_tried_again_is_tried_again(status: int) -> None:
    """An overloaded or starting service, or a key over its rate: the service says when, and the caller sees nothing."""
    seen, client = refusing(3, status)
    assert client.predict(IMAGE, "birds").dataset == "birds"
    assert seen == ["POST"] * 4
    seen, client = refusing(3, status)
    assert client.put("birds", b"bundle").revision == 1


def test_waiting_ends_with_the_callers_time() -> None:
    """A wait that would be longer than what is left is not begun: the refusal itself is raised."""
    seen, client = refusing(99, wait_s=60)
    with pytest.raises(Overloaded, match="busy"):
        client.predict(IMAGE, "birds")
    assert seen == ["POST"]


def test_what_must_not_happen_twice_is_not_tried_again() -> None:
    """A rollback that was done and whose answer got lost would go back one version too far."""
    for act in (Client.rollback, Client.remove):
        seen, client = refusing(1)
        with pytest.raises(Overloaded):
            act(client, "birds")
        assert len(seen) == 1


def test_importing_the_client_loads_neither_torch_nor_the_server() -> None:
    """A caller's machine needs httpx alone."""
    code = "import json, sys, pgn.client; print(json.dumps(sorted(sys.modules)))"
    loaded = json.loads(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout)
    assert "httpx" in loaded
    assert not {"torch", "fastapi", "starlette", "numpy", "PIL", "aiohttp"} & set(loaded)
