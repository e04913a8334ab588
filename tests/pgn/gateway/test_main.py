"""`python -m pgn.gateway` as a process: how it starts, refuses to start, and ends."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from pgn.errors import PortTaken, SetupError
from pgn.gateway.__main__ import listen
from pgn.store.local import LocalStore
from tests.pgn.gateway.conftest import wait_until
from tests.pgn.gateway.scripted import ScriptedTorchServe, answer_prompts, hold
from tests.toys import make_images

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
            line = next(line for line in process.stderr if "event=listening" in line)
            yield process, line.partition("url=")[2].strip()
        finally:
            process.kill()


def refusal(environment: dict[str, str]) -> str:
    """What a process says that does not start."""
    result = subprocess.run(COMMAND, env=environment, capture_output=True, text=True, timeout=60)
    assert result.returncode == 1
    return result.stderr


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_after_what_is_in_flight(
    environment: dict[str, str], scripted: ScriptedTorchServe, sent: signal.Signals
) -> None:
    """A roll-out loses no request: the accepted one is answered, new connections are refused."""
    go_on = threading.Event()
    statuses: list[int] = []
    with running(environment) as (process, url):
        wait_until(lambda: httpx.get(f"{url}/readyz").status_code == 200)
        scripted.script["pgn"].append(hold(go_on, answer_prompts))

        def ask() -> None:
            response = httpx.post(f"{url}/v1/datasets/birds/predict", content=make_images(1)[0], timeout=20)
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
        assert process.wait(20) in (0, -sent)
        assert process.stderr is not None
        assert "Traceback" not in process.stderr.read()
    assert statuses == [200]


def is_refused(url: str) -> bool:
    try:
        httpx.get(f"{url}/livez")
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
