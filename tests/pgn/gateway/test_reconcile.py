"""The loop: what it registers, what it calls ready, and what it says when it is not."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from pgn.index import Index
from pgn.settings import Settings, TorchServeConfig
from pgn.store.local import LocalStore
from tests.pgn.gateway.conftest import RunningGateway, StartGateway, running_gateway, wait_until
from tests.pgn.gateway.scripted import ScriptedTorchServe, answer_prompts, fail, hold, lose, say
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

    async def fall_over(*_: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(gateway.gateway.reconciler, "_canary", fall_over)
    gateway.gateway.reconciler.look_now()
    wait_reason(gateway, "a bug")
    monkeypatch.undo()
    gateway.wait_ready()


def verdict(gateway: RunningGateway) -> tuple[int, str]:
    """What a liveness probe of TorchServe is told."""
    response = gateway.http.get("/livez/torchserve")
    assert response.json()["alive"] is (response.status_code == 200)
    return response.status_code, "; ".join(response.json()["reasons"])


def metric(gateway: RunningGateway, line: str) -> float:
    """The value of a metric, written with its labels."""
    lines = gateway.http.get("/metrics").text.splitlines()
    return next(float(text.rpartition(" ")[2]) for text in lines if text.startswith(f"{line} "))


def test_a_dead_worker_is_named_while_the_canary_still_waits(
    start_gateway: StartGateway, scripted: ScriptedTorchServe
) -> None:
    """Its request waits in the queue for the next process, perhaps for the whole deadline; the operator does not."""
    gateway = start_gateway(deadline_s=60)
    scripted.workers["vit"] = []
    scripted.script["canary"] += [lose] * 4
    gateway.gateway.reconciler.look_soon()
    wait_reason(gateway, "stage.no_worker: stage vit has no process")
    assert metric(gateway, 'pgn_fault{code="stage.no_worker"}') == 1
    assert verdict(gateway) == (200, "")  # TorchServe starts another
    scripted.workers["vit"] = [{"pid": 1234, "status": "UNLOADING"}]


@pytest.mark.parametrize(
    ("workers", "code"),
    [([], "stage.no_worker"), ([{"pid": 1, "status": "READY"}], "stage.stuck")],
)
def test_a_stage_that_answers_nobody_for_long_has_torchserve_restarted(
    start_gateway: StartGateway, scripted: ScriptedTorchServe, workers: list[dict[str, object]], code: str
) -> None:
    """A worker that TorchServe has given up, or a queue that nothing leaves, is mended by nothing else."""
    gateway = start_gateway(deadline_s=0.2, restart_after_s=0.5)
    scripted.workers["pgn"] = workers
    scripted.script["canary"] += [lose] * 1000
    gateway.gateway.reconciler.look_soon()
    wait_until(lambda: verdict(gateway)[0] == 503)
    assert code in verdict(gateway)[1]
    assert code in reasons(gateway.http.get("/readyz"))
    scripted.workers["pgn"] = [{"pid": 1, "status": "READY"}]
    scripted.script["canary"].clear()
    gateway.wait_ready()
    assert verdict(gateway) == (200, "")


def test_a_loading_worker_is_waited_for(start_gateway: StartGateway, scripted: ScriptedTorchServe) -> None:
    """A large ViT on a slow disk would otherwise never get to the end of it."""
    gateway = start_gateway(deadline_s=0.1, restart_after_s=0.1)
    scripted.workers["vit"] = [{"pid": 1234, "status": "UNLOADING"}]
    scripted.script["canary"] += [lose] * 1000
    gateway.gateway.reconciler.look_soon()
    wait_reason(gateway, "stage.no_worker: stage vit is loading")
    wait_until(lambda: len(scripted.script["canary"]) < 980)
    assert verdict(gateway) == (200, "")


def test_a_busy_stage_that_answers_others_is_not_restarted(
    start_gateway: StartGateway, scripted: ScriptedTorchServe
) -> None:
    """Overload makes canaries late; a restart would be the end of those who are still answered."""
    gateway = start_gateway(deadline_s=0.2, restart_after_s=0.1)
    scripted.script["canary"] += [fail(500, "too late")] * 1000
    gateway.gateway.reconciler.look_soon()
    deadline_passed = threading.Event()

    def ask_on() -> None:
        while not deadline_passed.is_set():
            assert gateway.post(IMAGE).status_code == 200

    client = threading.Thread(target=ask_on)
    client.start()
    try:
        wait_reason(gateway, "too late")
        wait_until(lambda: len(scripted.script["canary"]) < 960)
        assert verdict(gateway) == (200, "")
    finally:
        deadline_passed.set()
        client.join()


def test_a_workflow_that_is_refused_again_and_again_has_torchserve_restarted(
    start_gateway: StartGateway, scripted: ScriptedTorchServe
) -> None:
    """After a few tries a fresh TorchServe is the only thing left to try; it may also end with a clear line."""
    scripted.is_registered = False
    scripted.refusals += [500] * 1000
    gateway = start_gateway(wait=False, restart_after_s=0.1)
    wait_until(lambda: verdict(gateway)[0] == 503)
    assert "torchserve.no_workflow: TorchServe did not register pgn.war (500)" in verdict(gateway)[1]
    assert scripted.calls.count(REGISTRATION) >= 5
    scripted.refusals.clear()
    gateway.wait_ready()


def test_threads_that_only_grow_have_torchserve_restarted(
    store: LocalStore, own_scripted: ScriptedTorchServe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A leak ends in a server that can start no thread at all; until the restart it answers on."""
    monkeypatch.setattr("pgn.gateway.reconcile._READY_PAUSE_S", 0.01)
    monkeypatch.setattr("pgn.gateway.reconcile._THREAD_LIMIT", 50)
    own_scripted.start()
    with running_gateway(Settings(store=store.root, restart_after_s=0.4), own_scripted.config) as gateway:
        wait_until(lambda: metric(gateway, "pgn_torchserve_threads") == 50)
        assert metric(gateway, "pgn_torchserve_up") == 1
        assert metric(gateway, "pgn_torchserve_rss_bytes") == 2**28

        def leak() -> bool:
            own_scripted.state["server_threads"] += 1
            return verdict(gateway)[0] == 503

        wait_until(leak)
        assert "torchserve.threads" in verdict(gateway)[1]
        assert "it began with 50" in verdict(gateway)[1]
        own_scripted.is_registered = False  # as after a restart
        own_scripted.state["server_threads"] = 500
        wait_until(lambda: metric(gateway, "pgn_torchserve_restarts_total") == 1)
        wait_until(lambda: metric(gateway, "pgn_torchserve_threads") == 500)
        gateway.wait_ready()
        assert verdict(gateway) == (200, "")


def test_too_much_memory_has_torchserve_restarted(start_gateway: StartGateway, scripted: ScriptedTorchServe) -> None:
    """Before the machine chooses whom to kill."""
    scripted.state["server_rss_bytes"] = 10**9
    gateway = start_gateway(wait=False, max_server_bytes=10**8, restart_after_s=0.1)
    wait_until(lambda: verdict(gateway)[0] == 503)
    assert "1,000,000,000 bytes of memory; the limit is 100,000,000" in verdict(gateway)[1]


def test_a_stage_on_another_device_than_asked_for_is_not_ready(
    start_gateway: StartGateway, scripted: ScriptedTorchServe
) -> None:
    """A CPU would answer, a hundred times slower; better to hear of it before the traffic comes."""
    gateway = start_gateway(wait=False, device="cuda")
    wait_reason(gateway, "stage.wrong_device: stage pgn computes on cpu; PGN_DEVICE is cuda")
    scripted.state["device"] = "cuda:0"
    gateway.wait_ready()


def test_a_management_that_hangs_is_told_from_one_that_is_gone(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stopped process still accepts connections; only a restart helps, and nobody saw it die."""
    monkeypatch.setattr("pgn.gateway.upstream._LOOK_TIMEOUT_S", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        url = f"http://127.0.0.1:{deaf.getsockname()[1]}"
        config = TorchServeConfig(Path("config.properties"), url, url, url, (1,), (), 100)
        with running_gateway(Settings(store=store.root, restart_after_s=0.3), config) as gateway:
            wait_reason(gateway, "torchserve.hung")
            wait_until(lambda: verdict(gateway)[0] == 503)
            assert metric(gateway, "pgn_torchserve_up") == 0
