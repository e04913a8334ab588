"""The loop: what it registers, what it calls ready, and what it says when it is not."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from pgn.index import Index
from pgn.settings import Settings
from pgn.store.local import LocalStore
from tests.pgn.gateway.conftest import RunningGateway, StartGateway, running_gateway, wait_until
from tests.pgn.gateway.scripted import ScriptedTorchServe, answer_prompts, fail, hold, say
from tests.toys import make_backbone, make_images

IMAGE = make_images(1)[0]
REGISTRATION = "POST /workflows?url=pgn.war&response_timeout=10&startup_timeout=120"


def reasons(response: httpx.Response) -> str:
    """Why the gateway is not ready, once it says that it is not."""
    assert response.status_code == 503
    assert response.json()["ready"] is False
    assert response.json()["reasons"]
    return "; ".join(response.json()["reasons"])


def wait_reason(gateway: RunningGateway, text: str) -> None:
    wait_until(lambda: text in str(gateway.http.get("/readyz").json()["reasons"]))


@pytest.fixture
def own_scripted() -> Iterator[ScriptedTorchServe]:
    """A scripted TorchServe that a test may stop and start; it starts down."""
    server = ScriptedTorchServe()
    yield server
    server.stop()


def test_a_missing_workflow_is_registered_and_asked_for_real(
    start_gateway: StartGateway, scripted: ScriptedTorchServe
) -> None:
    """A fresh TorchServe knows no workflow; ready means that both stages have answered."""
    scripted.is_registered = False
    gateway = start_gateway()
    assert scripted.calls.count(REGISTRATION) == 1
    assert gateway.http.get("/readyz").json() == {"ready": True, "reasons": []}
    assert gateway.post(IMAGE).status_code == 200


def test_a_workflow_lost_later_is_registered_again(gateway: RunningGateway, scripted: ScriptedTorchServe) -> None:
    """Every restart of TorchServe forgets it; the first request that meets this is told so and starts the repair."""
    scripted.is_registered = False
    response = gateway.post(IMAGE)
    assert response.status_code in (200, 503)
    wait_until(lambda: REGISTRATION in scripted.calls)
    gateway.wait_ready()
    assert gateway.post(IMAGE).status_code == 200


def test_what_a_request_meets_while_a_look_goes_on_is_not_forgotten(
    gateway: RunningGateway, scripted: ScriptedTorchServe
) -> None:
    """The look has asked before the workflow was lost and would call it ready; the next one comes at once."""
    go_on = threading.Event()
    scripted.script["canary"].append(hold(go_on, answer_prompts))
    gateway.gateway.reconciler.look_now()
    wait_until(lambda: not scripted.script["canary"])  # the look waits for its canary
    scripted.is_registered = False
    assert gateway.post(IMAGE).status_code == 503
    assert "a request met" in reasons(gateway.http.get("/readyz"))
    go_on.set()
    wait_until(lambda: REGISTRATION in scripted.calls)
    gateway.wait_ready()
    assert gateway.post(IMAGE).status_code == 200


def test_torchserve_may_come_later_and_come_back(store: LocalStore, own_scripted: ScriptedTorchServe) -> None:
    """The gateway starts without it, says what is missing, and needs no restart of its own."""
    own_scripted.is_registered = False
    with running_gateway(Settings(store=store.root), own_scripted.config) as gateway:
        wait_reason(gateway, "TorchServe does not answer at")
        refused = gateway.post(IMAGE)
        assert refused.status_code == 503
        assert refused.json()["error"]["code"] == "service.not_ready"
        assert str(own_scripted.port) in refused.json()["error"]["message"]
        own_scripted.start()
        gateway.wait_ready()
        own_scripted.stop()
        assert gateway.post(IMAGE).json()["error"]["code"] == "service.not_ready"
        wait_reason(gateway, "TorchServe does not answer at")
        own_scripted.is_registered = False
        own_scripted.start()
        gateway.wait_ready()
        assert gateway.post(IMAGE).status_code == 200


def test_a_refused_registration_is_the_reason_and_is_tried_again(
    start_gateway: StartGateway, scripted: ScriptedTorchServe
) -> None:
    """A stage that cannot load is seen from outside."""
    scripted.is_registered = False
    scripted.refusals += [500] * 4
    gateway = start_gateway(wait=False)
    wait_reason(gateway, "did not register pgn.war (500): it is scripted so")
    gateway.wait_ready()
    assert scripted.calls.count(REGISTRATION) == 5


@pytest.mark.parametrize(("action", "reason"), [(fail(500, "Worker died."), "Worker died."), (say(b"x"), "no message")])
def test_a_canary_that_fails_is_the_reason(
    start_gateway: StartGateway, scripted: ScriptedTorchServe, action: object, reason: str
) -> None:
    """A registered workflow whose stages do not answer is not ready, but requests may still be tried."""
    scripted.script["canary"] += [action] * 1000  # type: ignore[list-item]
    gateway = start_gateway(wait=False)
    wait_reason(gateway, reason)
    assert gateway.http.get("/readyz").status_code == 503
    assert gateway.post(IMAGE).status_code == 200
    scripted.script["canary"].clear()
    gateway.wait_ready()


def test_an_index_without_data_sets_is_never_ready(tmp_path: Path, scripted: ScriptedTorchServe) -> None:
    """A service that can answer nothing should get no traffic."""
    digest = make_backbone(tmp_path / "backbones" / "toy")
    (tmp_path / "index.json").write_text(Index(revision=1, backbone=digest).model_dump_json(by_alias=True))
    with running_gateway(Settings(store=tmp_path), scripted.config) as gateway:
        wait_reason(gateway, "no data set can be served")
        assert gateway.post(IMAGE).status_code == 404


def test_the_loop_outlives_a_fault_of_its_own(start_gateway: StartGateway, monkeypatch: pytest.MonkeyPatch) -> None:
    """A dead loop would leave a readiness that is no longer true."""
    gateway = start_gateway(wait=False)
    gateway.wait_ready()

    async def fall_over() -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(gateway.gateway.reconciler, "_canary", fall_over)
    gateway.gateway.reconciler.look_now()
    wait_reason(gateway, "a bug")
    monkeypatch.undo()
    gateway.wait_ready()
