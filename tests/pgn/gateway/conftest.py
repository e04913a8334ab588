"""A gateway on a real socket over a toy model store and a scripted TorchServe."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
import uvicorn

from pgn.gateway.__main__ import listen
from pgn.gateway.app import create_app
from pgn.gateway.datasets import read_catalog
from pgn.gateway.service import Gateway
from pgn.settings import Settings, TorchServeConfig
from pgn.store.local import LocalStore
from tests.pgn.gateway.scripted import ScriptedTorchServe
from tests.toys import make_store

WAIT_S = 120  # a busy machine may need as long to start the real stages


@pytest.fixture(autouse=True)
def quick_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reconciling loop does not pause for long."""
    monkeypatch.setattr("pgn.gateway.reconcile._PAUSE_S", 0.01)


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> LocalStore:
    """Serves birds, boats and digits, and lists a data set `broken` whose bundle has a changed byte."""
    root = tmp_path_factory.mktemp("store")
    store = make_store(root, ["birds", "boats", "digits", "broken"])
    (bundle,) = (root / "datasets" / "broken").iterdir()
    data = bytearray(bundle.read_bytes())
    data[-1] ^= 1
    bundle.write_bytes(data)
    return store


@pytest.fixture(scope="session")
def shared_scripted() -> Iterator[ScriptedTorchServe]:
    """One scripted TorchServe for all tests that do not stop it."""
    server = ScriptedTorchServe()
    server.start()
    yield server
    server.stop()


@pytest.fixture
def scripted(shared_scripted: ScriptedTorchServe) -> ScriptedTorchServe:
    """Answers honestly, until a test scripts it."""
    shared_scripted.reset()
    return shared_scripted


@dataclass
class RunningGateway:
    """A gateway that serves on a socket, and a plain HTTP client for it."""

    url: str
    gateway: Gateway
    http: httpx.Client

    def post(self, body: Any, dataset: str = "birds", **rest: Any) -> httpx.Response:
        return self.http.post(f"/v1/datasets/{dataset}/predict", content=body, **rest)

    def wait_ready(self) -> None:
        wait_until(lambda: self.http.get("/readyz").status_code == 200)


@contextmanager
def running_gateway(settings: Settings, torchserve: TorchServeConfig) -> Iterator[RunningGateway]:
    """A gateway in a thread, ready or not; stopped as a signal stops it."""
    app = create_app(settings, torchserve, read_catalog(LocalStore(settings.store)))
    listener = listen("127.0.0.1", 0)
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, log_level="warning"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        with httpx.Client(base_url=url, timeout=WAIT_S) as http:
            wait_until(lambda: server.started)
            yield RunningGateway(url, app.state.gateway, http)
    finally:
        server.should_exit = True
        thread.join(WAIT_S)
        listener.close()
        assert not thread.is_alive()


StartGateway = Callable[..., RunningGateway]


@pytest.fixture
def start_gateway(store: LocalStore, scripted: ScriptedTorchServe) -> Iterator[StartGateway]:
    """Starts a gateway with these settings."""
    with ExitStack() as stack:

        def start(*, wait: bool = True, **settings: Any) -> RunningGateway:
            values = {"store": store.root, "decode_threads": 2, **settings}
            running = stack.enter_context(running_gateway(Settings(**values), scripted.config))
            if wait:
                running.wait_ready()
            return running

        yield start


@pytest.fixture(scope="session")
def shared_gateway(store: LocalStore, shared_scripted: ScriptedTorchServe) -> Iterator[RunningGateway]:
    """One gateway with the default settings for all tests that need no other."""
    with running_gateway(Settings(store=store.root), shared_scripted.config) as running:
        yield running


@pytest.fixture
def gateway(shared_gateway: RunningGateway, scripted: ScriptedTorchServe) -> RunningGateway:
    """A ready gateway with the default settings."""
    shared_gateway.wait_ready()
    return shared_gateway


def wait_until(condition: Callable[[], bool]) -> None:
    """Return once `condition()` holds."""
    end = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.005)
