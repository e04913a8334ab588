"""`pgn serve`: TorchServe and gateway as two children, started, watched, restarted and stopped in the right order."""

from __future__ import annotations

import http.client
import json
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from pgn.archive import Archives
from pgn.errors import DiskFull, NotReady, ServerDied, SetupError
from pgn.gateway.datasets import Catalog, read_catalog
from pgn.serve.child import Child
from pgn.serve.ports import check_port, free_port
from pgn.serve.torchserve import TorchServe, environment
from pgn.settings import Settings
from pgn.store.local import LocalStore

GATEWAY: Final = (sys.executable, "-m", "pgn.gateway")

_PAUSE_S: Final = 0.2
_START_LIMIT_S: Final = 300.0  # a large ViT on a slow disk takes a while
_QUICK_S: Final = 60.0  # a child that lives for less has died quickly
_QUICK_DEATHS: Final = 3


@dataclass
class Stop:
    """Whether SIGTERM or SIGINT has come. Handlers only note it; the loop acts."""

    asked: bool = False


@contextmanager
def stop_on_signals() -> Iterator[Stop]:
    """Note SIGTERM and SIGINT instead of dying of them."""
    stop = Stop()

    def note(*_: object) -> None:
        stop.asked = True

    before = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Kept:
    """A child that is started again when it dies, ever later, and given up after a few quick deaths.

    Args:
        name: What it is called in messages.
        start: Starts it.
        clock: Seconds that only grow.
    """

    def __init__(self, name: str, start: Callable[[], Child], clock: Callable[[], float] = time.monotonic) -> None:
        self._name = name
        self._start = start
        self._clock = clock
        self._quick_deaths = 0
        self._restart_at: float | None = None
        self.child = self._begin()

    def _begin(self) -> Child:
        self._began = self._clock()
        self._restart_at = None
        return self._start()

    def check(self) -> None:
        """Look after the child; to be called often.

        Raises:
            ServerDied: It has died too often.
        """
        status = self.child.exit_status()
        if status is None:
            return
        if self._restart_at is not None:
            if self._clock() >= self._restart_at:
                self.child = self._begin()
            return
        self.child.kill_group()
        self._quick_deaths = self._quick_deaths + 1 if self._clock() - self._began < _QUICK_S else 1
        if self._quick_deaths >= _QUICK_DEATHS:
            raise ServerDied(f"{self._name} died {self._quick_deaths} times in a row ({_describe(status)})")
        _tell(f"{self._name} died ({_describe(status)}); it is started again")
        self._restart_at = self._clock() + 2.0 ** (self._quick_deaths - 1)


def serve(settings: Settings, *, archives: Archives | None = None, gateway: Sequence[str] = GATEWAY) -> int:
    """Serve until SIGTERM or SIGINT; says on standard output where, once requests are answered.

    Args:
        settings: Port 0 takes a free one.
        archives: Built before; None builds them from the running package.
        gateway: The gateway's command.

    Returns:
        0 after a signal; by then no process is left.

    Raises:
        PgnError: It cannot start, or a child died for good.
    """
    settings = settings.model_copy(update={"port": settings.port or free_port(settings.host)})
    check_port(settings.host, settings.port, "choose another with --port or PGN_PORT")
    catalog = _check_catalog(settings)
    with stop_on_signals() as stop, TorchServe(settings, archives=archives) as torchserve:
        stages = Kept("TorchServe", torchserve.start)
        door = Kept("the gateway", lambda: Child(gateway, env=environment(settings)))
        try:
            _wait_ready(settings, torchserve, (stages, door), stop)
            if not stop.asked:
                sys.stdout.write(_where(settings, catalog) + "\n")
                sys.stdout.flush()
            while not stop.asked:
                _look(torchserve, (stages, door))
        finally:
            door.child.stop(settings.deadline_s + 5)  # it answers what is in flight, which needs TorchServe
    return 0


def serve_stages(settings: Settings, *, archives: Archives | None = None) -> int:
    """Run TorchServe alone until SIGTERM or SIGINT, as its container does; the gateway registers the workflow.

    Raises:
        PgnError: It cannot start.
        ServerDied: It ended by itself. Whoever runs the container starts it again.
    """
    with stop_on_signals() as stop, TorchServe(settings, archives=archives, to_console=True) as torchserve:
        child = torchserve.start()
        while not stop.asked:
            if (status := child.exit_status()) is not None:
                raise ServerDied(f"TorchServe died ({_describe(status)})")
            time.sleep(_PAUSE_S)
    return 0


def _check_catalog(settings: Settings) -> Catalog:
    """What will be served; data sets that will not are named, with the reason."""
    catalog = read_catalog(LocalStore(settings.store))
    for dataset in catalog.datasets.values():
        if dataset.state != "ready":
            _tell(f"data set {dataset.name} is not served: {dataset.reason}")
    if catalog.any_ready() is None:
        raise SetupError(f"{settings.store} has no data set that can be served", hint="add a bundle with `pgn add`")
    return catalog


def _wait_ready(settings: Settings, torchserve: TorchServe, kept: Sequence[Kept], stop: Stop) -> None:
    """Return when the gateway is ready, or a signal has come."""
    end = time.monotonic() + _START_LIMIT_S
    while not stop.asked:
        _look(torchserve, kept, is_starting=True)
        is_ready, reasons = _ask_ready(settings)
        if is_ready:
            return
        if time.monotonic() > end:
            raise NotReady(f"the service was not ready within {_START_LIMIT_S:g} s: {reasons}")


def _look(torchserve: TorchServe, kept: Sequence[Kept], *, is_starting: bool = False) -> None:
    """Pause, pass on what TorchServe complains about, and look after the children."""
    time.sleep(_PAUSE_S)
    news = torchserve.news()
    if is_starting and "No space left on device" in news:  # it would go on trying, with a screen of Java each time
        raise DiskFull(f"TorchServe found no room in {torchserve.run.path}")
    if news:
        sys.stderr.write(news + "\n")
    for each in kept:
        each.check()


def _ask_ready(settings: Settings) -> tuple[bool, str]:
    try:
        status, body = _get(settings, "/readyz")
        return status == 200, "; ".join(json.loads(body).get("reasons", []))
    except (OSError, http.client.HTTPException, ValueError, AttributeError) as error:
        return False, f"the gateway does not answer: {error}"


def _get(settings: Settings, path: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(_reachable(settings.host), settings.port, timeout=2)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def _reachable(host: str) -> str:
    """The address under which a server that listens on `host` is met from this machine."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(host, host)  # noqa: S104


def _where(settings: Settings, catalog: Catalog) -> str:
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    names = ", ".join(name for name, dataset in catalog.datasets.items() if dataset.state == "ready")
    return f"pgn serve: listening on http://{host}:{settings.port}  (data sets: {names}; Ctrl-C stops)"


def _describe(status: int) -> str:
    return f"signal {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"


def _tell(line: str) -> None:
    sys.stderr.write(f"pgn serve: {line}\n")
    sys.stderr.flush()
