"""`pgn serve`: TorchServe and gateway as children, started, watched, restarted and stopped in the right order.

With a bucket, a third child keeps the folder of the model store at what the bucket says.
"""

from __future__ import annotations

import http.client
import json
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Final

from pgn.archive import Archives
from pgn.errors import DiskFull, NotReady, ServerDied, SetupError, StoreUnavailable
from pgn.gateway.datasets import Catalog, read_catalog
from pgn.gateway.exposure import check_exposure
from pgn.index import INDEX_FILE
from pgn.serve.child import Child
from pgn.serve.ports import check_port, free_port
from pgn.serve.torchserve import TorchServe, environment
from pgn.settings import Settings
from pgn.store.local import LocalStore

GATEWAY: Final = (sys.executable, "-m", "pgn.gateway")
SYNC: Final = (sys.executable, "-m", "pgn", "sync", "--watch")

_PAUSE_S: Final = 0.2
_ASK_EVERY: Final = 5  # looks; a second
_START_LIMIT_S: Final = 300.0  # a large ViT on a slow disk takes a while
_QUICK_S: Final = 60.0  # a child that lives for less has died quickly
_QUICK_DEATHS: Final = 3
_STOP_GRACE_S: Final = 5.0


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

    Attributes:
        was_well: It has worked since it was started; set by whoever knows.
    """

    def __init__(self, name: str, start: Callable[[], Child], clock: Callable[[], float] = time.monotonic) -> None:
        self._name = name
        self._start = start
        self._clock = clock
        self._quick_ends = 0
        self._restart_at: float | None = None
        self.child = self._begin()

    def _begin(self) -> Child:
        self.was_well = False
        self._began = self._clock()
        self._restart_at = None
        return self._start()

    @property
    def age_s(self) -> float:
        """Seconds since it was started; 0 while it is down."""
        return self._clock() - self._began if self._restart_at is None else 0.0

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
        self._ended(f"died ({_describe(status)})", was_quick=self.age_s < _QUICK_S)

    def restart(self, why: str) -> None:
        """End the child, which lives and does not work; it is started again like one that died.

        Raises:
            ServerDied: It has been restarted too often without ever being well.
        """
        self.child.stop(_STOP_GRACE_S)
        self._ended(f"had to be ended ({why})", was_quick=not self.was_well)

    def _ended(self, how: str, *, was_quick: bool) -> None:
        self._quick_ends = self._quick_ends + 1 if was_quick else 1
        if self._quick_ends >= _QUICK_DEATHS:
            raise ServerDied(f"{self._name} {how.replace(' (', f' {self._quick_ends} times in a row (', 1)}")
        _tell(f"{self._name} {how}; it is started again")
        self._restart_at = self._clock() + 2.0 ** (self._quick_ends - 1)


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
    check_exposure(settings)
    if settings.remote is not None:
        _sync_first(settings)
    catalog = _check_catalog(settings)
    with stop_on_signals() as stop, TorchServe(settings, archives=archives) as torchserve:
        env = environment(torchserve.settings)
        with ExitStack() as running:
            kept = []
            if settings.remote is not None:
                sync = Kept("the sync", lambda: Child(SYNC, env=env))
                running.callback(lambda: sync.child.stop(_STOP_GRACE_S))
                kept.append(sync)
            stages = Kept("TorchServe", torchserve.start)
            door = Kept("the gateway", lambda: Child(gateway, env=env))
            # It answers what is in flight, which needs TorchServe.
            running.callback(lambda: door.child.stop(settings.drain_delay_s + settings.deadline_s + _STOP_GRACE_S))
            kept += [stages, door]
            _wait_ready(settings, torchserve, kept, stop)
            if not stop.asked:
                sys.stdout.write(_where(settings, catalog) + "\n")
                sys.stdout.flush()
            looks = 0
            while not stop.asked:
                _look(torchserve, kept, stop)
                looks += 1
                if looks % _ASK_EVERY == 0 and not stop.asked:
                    _heed_verdict(settings, stages)
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


def _sync_first(settings: Settings) -> None:
    """Bring the folder to what the bucket says; a bucket that is away stops nobody who has a folder."""
    from pgn.store.sync import sync_once  # boto3 is for those who have a bucket

    try:
        sync_once(settings)
    except StoreUnavailable as error:
        if not (settings.store / INDEX_FILE).exists():
            raise
        _tell(f"{error.message}; {settings.store} is served as it is")


def _heed_verdict(settings: Settings, stages: Kept) -> None:
    """Restart TorchServe if the gateway says that nothing else helps."""
    if _ask(settings, "/readyz")[0]:
        stages.was_well = True
        return
    is_well, reasons = _ask(settings, "/livez/torchserve")
    # A new one is given time to begin, and the gateway time to see that it is new.
    if not is_well and reasons and stages.age_s > max(_QUICK_S, settings.restart_after_s):
        stages.restart("; ".join(reasons))


def _check_catalog(settings: Settings) -> Catalog:
    """What will be served; data sets that will not are named, with the reason."""
    catalog = read_catalog(LocalStore(settings.store))
    for version in catalog.versions():
        if version.facts is None:
            _tell(f"data set {version.dataset} is not served: {version.reason}")
    if not _served(catalog):
        raise SetupError(f"{settings.store} has no data set that can be served", hint="add a bundle with `pgn add`")
    return catalog


def _served(catalog: Catalog) -> list[str]:
    datasets = catalog.datasets.values()
    return [dataset.name for dataset in datasets if any(version.facts for version in dataset.versions)]


def _wait_ready(settings: Settings, torchserve: TorchServe, kept: Sequence[Kept], stop: Stop) -> None:
    """Return when the gateway is ready, or a signal has come."""
    end = time.monotonic() + _START_LIMIT_S
    while not stop.asked:
        _look(torchserve, kept, stop, is_starting=True)
        is_ready, reasons = _ask(settings, "/readyz")
        if is_ready:
            return
        if time.monotonic() > end:
            why = "; ".join(reasons) or "the gateway does not answer"
            raise NotReady(f"the service was not ready within {_START_LIMIT_S:g} s: {why}")


def _look(torchserve: TorchServe, kept: Sequence[Kept], stop: Stop, *, is_starting: bool = False) -> None:
    """Pause, pass on what TorchServe complains about, and look after the children."""
    time.sleep(_PAUSE_S)
    if stop.asked:
        return
    news = torchserve.news()
    if is_starting and "No space left on device" in news:  # it would go on trying, with a screen of Java each time
        raise DiskFull(f"TorchServe found no room in {torchserve.run.path}")
    if news:
        sys.stderr.write(news + "\n")
    for each in kept:
        each.check()


def _ask(settings: Settings, path: str) -> tuple[bool, Sequence[str]]:
    """Whether the gateway says that all is well, and its reasons if not; without an answer there are none."""
    try:
        status, body = _get(settings, path)
        return status == 200, json.loads(body)["reasons"]
    except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError):
        return False, ()


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
    return {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(host, host)  # noqa: S104  # nosec B104: it listens nowhere


def _where(settings: Settings, catalog: Catalog) -> str:
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    names = ", ".join(_served(catalog))
    return f"pgn serve: listening on http://{host}:{settings.port}  (data sets: {names}; Ctrl-C stops)"


def _describe(status: int) -> str:
    return f"signal {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"


def _tell(line: str) -> None:
    sys.stderr.write(f"pgn serve: {line}\n")
    sys.stderr.flush()
