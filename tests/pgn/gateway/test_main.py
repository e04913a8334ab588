"""`python -m pgn.gateway` as a process: how it starts, refuses to start, and ends."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import psutil
import pytest

from pgn.errors import PortTaken, SetupError
from pgn.gateway.__main__ import listen
from pgn.store.local import LocalStore
from tests.pgn.gateway.conftest import WAIT_S, wait_until
from tests.pgn.gateway.scripted import ScriptedTorchServe, answer_prompts, hold
from tests.toys import make_images

IMAGE = make_images(1)[0]
COMMAND = [sys.executable, "-m", "pgn.gateway"]


@pytest.fixture
def environment(store: LocalStore, scripted: ScriptedTorchServe, tmp_path: Path) -> dict[str, str]:
    """Settings of a gateway process over the toy store and the scripted TorchServe, on a free port."""
    config = tmp_path / "config.properties"
    addresses = (f"{name}_address={scripted.config.inference}" for name in ("inference", "management", "metrics"))
    others = ("grpc_inference_port=1", "grpc_management_port=2", "job_queue_size=100")
    config.write_text("\n".join([*addresses, *others]))
    ours = {
        "PGN_STORE": str(store.root),
        "PGN_TORCHSERVE_CONFIG": str(config),
        "PGN_PORT": "0",
        "PGN_LOG_LEVEL": "info",  # the tests read from its log where it listens
    }
    return {**os.environ, **ours}


@contextmanager
def running(environment: dict[str, str]) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The process and the address that it says it listens on."""
    with subprocess.Popen(COMMAND, env=environment, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            line = next(line for line in process.stderr if " listening url=" in line)
            yield process, line.partition("url=")[2].strip()
        finally:
            process.kill()


def refusal(environment: dict[str, str]) -> str:
    """What a process says that does not start."""
    result = subprocess.run(COMMAND, env=environment, capture_output=True, text=True, timeout=60)
    assert result.returncode == 1
    return result.stderr


@pytest.mark.parametrize(("sent", "workers"), [(signal.SIGTERM, 1), (signal.SIGINT, 1), (signal.SIGINT, 2)])
def test_a_signal_ends_it_after_what_is_in_flight(
    environment: dict[str, str], scripted: ScriptedTorchServe, sent: signal.Signals, workers: int
) -> None:
    """A roll-out loses no request: the accepted one is answered, new connections are refused."""
    go_on = threading.Event()
    statuses: list[int] = []
    with running({**environment, "PGN_WORKERS": str(workers)}) as (process, url):
        wait_until(lambda: get(f"{url}/readyz").status_code == 200)
        scripted.script["pgn"].append(hold(go_on, answer_prompts))

        def ask() -> None:
            response = httpx.post(f"{url}/v1/datasets/birds/predict", content=IMAGE, timeout=WAIT_S)
            statuses.append(response.status_code)

        client = threading.Thread(target=ask)
        client.start()
        try:
            wait_until(lambda: scripted.count("pgn") == 1)
            process.send_signal(sent)
            wait_until(lambda: is_refused(url))
            assert process.poll() is None
        finally:
            go_on.set()
            client.join()
        assert process.wait(20) == 0
        assert process.stderr is not None
        assert "Traceback" not in process.stderr.read()
    assert statuses == [200]


class Clients:
    """Callers with kept connections that leave when `/readyz` says so, as a load balancer's do.

    Attributes:
        statuses: Of all answers.
        faults: Requests that were sent and not answered.
    """

    def __init__(self, url: str, number: int = 8) -> None:
        self.statuses: list[int] = []
        self.faults: list[Exception] = []
        self._url = url
        self._threads = [threading.Thread(target=self._ask) for _ in range(number)]
        for thread in self._threads:
            thread.start()

    def _ask(self) -> None:
        with httpx.Client(base_url=self._url, timeout=WAIT_S) as http:
            while self._is_wanted():
                try:
                    self.statuses.append(http.post("/v1/datasets/birds/predict", content=IMAGE).status_code)
                except httpx.TransportError as fault:
                    self.faults.append(fault)
                    return

    def _is_wanted(self) -> bool:
        return get(f"{self._url}/readyz").status_code == 200

    def join(self) -> None:
        """Until all have left."""
        for thread in self._threads:
            thread.join(60)
            assert not thread.is_alive()


@pytest.mark.parametrize("workers", [1, 2])
def test_a_drain_under_load_loses_no_request(environment: dict[str, str], workers: int) -> None:
    """Not ready at once, accepting for the delay, and closed only when nobody is left to be turned away."""
    ours = {"PGN_WORKERS": str(workers), "PGN_DRAIN_DELAY_S": "4", "PGN_DEADLINE_S": "30"}
    with running({**environment, **ours}) as (process, url):
        wait_until(lambda: is_ready_everywhere(url))
        clients = Clients(url)
        wait_until(lambda: len(clients.statuses) >= 50)
        process.send_signal(signal.SIGTERM)
        clients.join()
        assert process.poll() is None, "it closed before the delay was over"
        answer = get(f"{url}/readyz")
        assert (answer.status_code, answer.headers["connection"]) == (503, "close")
        assert "draining" in answer.json()["reasons"][0]
        assert httpx.post(f"{url}/v1/datasets/birds/predict", content=IMAGE, timeout=WAIT_S).status_code == 200
        assert process.wait(30) == 0
    assert clients.faults == []
    assert set(clients.statuses) == {200}


def get(url: str) -> httpx.Response:
    """Asks with patience: workers take seconds to start on a busy machine, and the port is there before them."""
    return httpx.get(url, timeout=WAIT_S)


def is_ready_everywhere(url: str) -> bool:
    """Whether the gateway is ready, asked often enough to meet each worker."""
    return all(get(f"{url}/readyz").status_code == 200 for _ in range(10))


def workers_of(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """The processes that serve; the resource tracker of multiprocessing is none, nor is a dead one."""
    found = []
    for child in psutil.Process(process.pid).children():
        with suppress(psutil.ZombieProcess, psutil.NoSuchProcess):
            found += [child] if "spawn_main" in " ".join(child.cmdline()) else []
    return found


def test_a_worker_that_is_killed_is_replaced(environment: dict[str, str]) -> None:
    """The others go on meanwhile, behind the same port."""
    with running({**environment, "PGN_WORKERS": "2"}) as (process, url):
        wait_until(lambda: is_ready_everywhere(url))
        workers = workers_of(process)
        workers[0].kill()
        wait_until(lambda: workers[0] not in workers_of(process) and len(workers_of(process)) == 2)
        assert workers[1] in workers_of(process)
        wait_until(lambda: is_ready_everywhere(url))


@pytest.mark.slow
def test_a_worker_that_hangs_is_replaced(environment: dict[str, str]) -> None:
    """Nothing else would free the connections that it has accepted."""
    with running({**environment, "PGN_WORKERS": "2"}) as (process, url):
        wait_until(lambda: is_ready_everywhere(url))
        hung = workers_of(process)[0]
        hung.suspend()
        wait_until(lambda: hung not in workers_of(process) and len(workers_of(process)) == 2)
        wait_until(lambda: is_ready_everywhere(url))


def test_counters_never_go_down_while_workers_are_replaced(environment: dict[str, str]) -> None:
    """Whichever worker is scraped tells of all, of the dead one too; a dip would look like a surge to Prometheus."""
    with running({**environment, "PGN_WORKERS": "2"}) as (process, url):
        wait_until(lambda: is_ready_everywhere(url))
        for _ in range(10):
            httpx.post(f"{url}/v1/datasets/birds/predict", content=IMAGE, timeout=WAIT_S).raise_for_status()
        assert {answered(url) for _ in range(10)} == {10}
        workers = workers_of(process)
        workers[0].kill()
        wait_until(lambda: workers[0] not in workers_of(process) and len(workers_of(process)) == 2)
        wait_until(lambda: is_ready_everywhere(url))
        httpx.post(f"{url}/v1/datasets/birds/predict", content=IMAGE, timeout=WAIT_S).raise_for_status()
        assert {answered(url) for _ in range(10)} == {11}


def answered(url: str) -> float:
    """Predictions that the service has counted, as one of its workers says on a connection of its own."""
    start = 'pgn_requests_total{code="200",dataset="birds",endpoint="predict"} '
    (line,) = (line for line in get(f"{url}/metrics").text.splitlines() if line.startswith(start))
    return float(line.removeprefix(start))


def test_a_killed_parent_leaves_no_worker(environment: dict[str, str]) -> None:
    """One that stayed would keep the port from whoever comes next."""
    with running({**environment, "PGN_WORKERS": "2"}) as (process, url):
        wait_until(lambda: is_ready_everywhere(url))
        workers = workers_of(process)
        process.kill()
        _, alive = psutil.wait_procs(workers, timeout=WAIT_S)
        assert alive == []


def test_workers_that_cannot_start_end_it(environment: dict[str, str]) -> None:
    """Rather than being started again for ever."""
    lines = refusal({**environment, "PGN_WORKERS": "2", "PGN_STORE": "/nowhere"}).splitlines()
    assert any("index.json cannot be read" in line for line in lines)
    assert "workers could not start" in lines[-1]
    assert "Traceback" not in "".join(lines)


def is_refused(url: str) -> bool:
    try:
        get(f"{url}/livez")
    except httpx.TransportError:
        return True
    return False


def test_a_taken_port_is_one_line_that_says_what_to_do(environment: dict[str, str]) -> None:
    """No traceback, and the remedy is named."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        lines = refusal({**environment, "PGN_PORT": str(port)}).splitlines()
    assert len(lines) == 1
    assert f"port {port}" in lines[0]
    assert "PGN_PORT" in lines[0]


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("PGN_STORE", "/nowhere", "index.json cannot be read"),
        ("PGN_TORCHSERVE_CONFIG", "/nowhere", "TorchServe's settings /nowhere cannot be read"),
        ("PGN_MAX_IN_FLIGHT", "100", "not below TorchServe's job_queue_size of 100"),
        ("PGN_TOP_K", "many", "PGN_TOP_K='many'"),
        ("PGN_HOST", "0.0.0.0", "set PGN_KEYS"),
        ("PGN_KEYS", "/nowhere", "API keys /nowhere cannot be read"),
        ("PGN_AUDIT_LOG", "/nowhere/audit", "audit log /nowhere/audit cannot be written"),
    ],
)
def test_what_stands_in_the_way_is_one_line(environment: dict[str, str], name: str, value: str, text: str) -> None:
    """The reason is the operator's to read, so it names the setting or the file."""
    (line,) = refusal({**environment, name: value}).splitlines()
    assert text in line


def test_an_address_of_another_machine_is_a_setup_error() -> None:
    """Not a taken port: another remedy."""
    with pytest.raises(SetupError, match="cannot listen") as raised:
        listen("192.0.2.1", 0)
    assert not isinstance(raised.value, PortTaken)


def test_answers_are_sent_at_once() -> None:
    """asyncio turns Nagle's delay off only where the protocol is named: 40 ms for each answer otherwise."""
    with listen("127.0.0.1", 0) as listener:
        assert listener.proto == socket.IPPROTO_TCP
