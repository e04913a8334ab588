"""`pgn serve`: one line when it is ready, everything stopped in the end, however it ends."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from pgn.errors import DiskFull, PortTaken, ServerDied, SetupError
from pgn.serve import serve
from pgn.serve.child import Child
from pgn.serve.supervisor import Kept, Stop, _wait_ready
from pgn.serve.torchserve import environment
from pgn.settings import Settings, read_torchserve_config
from pgn.store.local import LocalStore
from tests.servers import call, is_up, make_settings, processes_with, wait_until
from tests.toys import make_backbone, make_bundle, make_images, make_store

_SERVE = """
import sys
from pgn.serve import serve
from pgn.settings import load_settings
sys.exit(serve(load_settings()))
"""


@dataclass
class Served:
    """A running `pgn serve`."""

    process: subprocess.Popen[str]
    settings: Settings

    def family(self) -> list[psutil.Process]:
        """All of its processes; they know each other by the model store."""
        return processes_with(str(self.settings.store))

    def find(self, word: str) -> psutil.Process:
        """The one with `word` in its command line."""
        (found,) = (process for process in self.family() if any(word in part for part in process.cmdline()))
        return found

    def is_ready(self) -> bool:
        try:
            return call("GET", f"http://127.0.0.1:{self.settings.port}/readyz")[0] == 200
        except OSError:
            return False


@contextmanager
def served(folder: Path) -> Iterator[Served]:
    """`pgn serve` over a small store, as a process of its own."""
    settings = make_settings(make_store(folder / "store", ["flowers", "pets"]).root, folder)
    with subprocess.Popen(
        [sys.executable, "-c", _SERVE], env=environment(settings), stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            yield Served(process, settings)
        finally:
            process.kill()


def first_line(server: Served) -> str:
    assert server.process.stdout is not None
    return server.process.stdout.readline()


def test_it_says_where_it_listens_and_ends_with_a_signal(tmp_path: Path) -> None:
    """One line on standard output, status 0, no process, no folder."""
    with served(tmp_path) as server:
        line = first_line(server)
        url = f"http://127.0.0.1:{server.settings.port}"
        assert line == f"pgn serve: listening on {url}  (data sets: flowers, pets; Ctrl-C stops)\n"
        status, _ = call("POST", f"{url}/v1/datasets/pets/predict", make_images(1)[0])
        assert status == 200
        folder = Path(server.find("ModelServer").environ()["TMPDIR"]).parent
        server.process.terminate()
        assert server.process.wait() == 0
        assert server.process.stdout is not None
        assert server.process.stdout.read() == ""
        assert server.family() == []
        assert not folder.exists()


def test_killed_it_leaves_no_process(tmp_path: Path) -> None:
    """Nobody has to look for a forgotten JVM that holds the ports."""
    with served(tmp_path) as server:
        first_line(server)
        assert len(server.family()) == 5  # itself, gateway, JVM, a worker for each stage
        server.process.kill()
        wait_until(lambda: server.family() == [], "the end of all processes")


def test_a_dead_server_and_a_dead_gateway_are_started_again(tmp_path: Path) -> None:
    """The machine's owner need not watch."""
    with served(tmp_path) as server:
        first_line(server)
        for word in ("ModelServer", "pgn.gateway"):
            server.find(word).kill()
            wait_until(lambda: not server.is_ready(), f"{word} to be missed")
            wait_until(server.is_ready, f"{word} to be back")
        server.process.send_signal(signal.SIGINT)  # Ctrl-C
        assert server.process.wait() == 0
        assert server.family() == []


def test_a_gateway_that_never_lives_is_given_up(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """One clear line, and TorchServe does not stay behind."""
    settings = make_settings(make_store(tmp_path / "store", ["pets"]).root, tmp_path)
    with pytest.raises(ServerDied, match=r"the gateway died 3 times in a row \(exit status 7\)"):
        serve(settings, gateway=[sys.executable, "-c", "raise SystemExit(7)"])
    assert capfd.readouterr().out == ""
    assert processes_with(str(settings.store)) == []


def test_a_taken_port_is_told_before_anything_starts(tmp_path: Path) -> None:
    """The line says how to take another."""
    settings = make_settings(make_store(tmp_path / "store", ["pets"]).root, tmp_path)
    with socket.create_server(("127.0.0.1", settings.port)), pytest.raises(PortTaken, match="--port"):
        serve(settings)


def test_a_store_with_nothing_to_serve_is_told(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """With the reason for each data set that is not served."""
    store = LocalStore(tmp_path / "store")
    path = make_bundle(tmp_path, "pets", make_backbone(store.root / "backbones" / "toy"))
    bundle, _ = store.add(path)
    store.bundle_path("pets", bundle.digest).unlink()
    with pytest.raises(SetupError, match="no data set that can be served"):
        serve(make_settings(store.root, tmp_path / "config"))
    assert "data set pets is not served" in capfd.readouterr().err


def test_a_disk_that_fills_while_torchserve_unpacks_is_one_line(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """TorchServe goes on trying; only its log tells, and its pages of Java are not shown."""
    settings = make_settings(tmp_path, tmp_path)
    complaint = "WARN  org.pytorch.serve - java.io.IOException: No space left on device"
    torchserve: Any = SimpleNamespace(news=lambda: complaint, run=SimpleNamespace(path=tmp_path))
    with pytest.raises(DiskFull, match=str(tmp_path)):
        _wait_ready(settings, torchserve, (), Stop())
    assert capfd.readouterr() == ("", "")


_STAGES = """
from pgn.errors import ServerDied
from pgn.serve import serve_stages
from pgn.settings import load_settings
try:
    raise SystemExit(serve_stages(load_settings()))
except ServerDied as error:
    raise SystemExit(str(error))
"""


@pytest.mark.parametrize(
    ("ending", "status", "said"), [("ask", 0, ""), ("kill", 1, "TorchServe died (signal SIGKILL)")]
)
def test_torchserve_alone_ends_with_a_signal_or_with_torchserve(
    tmp_path: Path, ending: str, status: int, said: str
) -> None:
    """A container that runs it ends when it is told to, and does not outlive its server."""
    settings = make_settings(make_store(tmp_path / "store", ["pets"]).root, tmp_path)
    inference = read_torchserve_config(settings.torchserve_config).inference
    with subprocess.Popen(
        [sys.executable, "-c", _STAGES], env=environment(settings), stderr=subprocess.PIPE, text=True
    ) as process:
        server = Served(process, settings)
        try:
            wait_until(lambda: is_up(inference), "TorchServe to come up")
            if ending == "ask":
                process.terminate()
            else:
                server.find("ModelServer").kill()
            assert process.wait() == status
            assert process.stderr is not None
            assert said in process.stderr.read()
            assert server.family() == []
        finally:
            process.kill()


class FakeClock:
    """Seconds that pass when a test says so."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


class TestKept:
    @pytest.fixture
    def clock(self) -> FakeClock:
        """Starts at zero."""
        return FakeClock()

    @pytest.fixture
    def start(self) -> Iterator[Callable[[], Child]]:
        """Starts a child that lives until it is killed; whatever is left is killed in the end."""
        children: list[Child] = []

        def start_one() -> Child:
            children.append(Child(["sleep", "600"], env=dict(os.environ)))
            return children[-1]

        yield start_one
        for child in children:
            child.kill_group()

    def test_a_dead_child_is_started_again_after_a_pause(self, start: Callable[[], Child], clock: FakeClock) -> None:
        """The pause doubles with every quick death."""
        kept = Kept("it", start, clock)
        for pause in (1.0, 2.0):
            dead = kept.child
            dead.kill_group()
            kept.check()
            clock.now += pause - 0.1
            kept.check()
            assert kept.child is dead
            clock.now += 0.1
            kept.check()
            assert kept.child is not dead

    def test_after_three_quick_deaths_it_is_given_up(self, start: Callable[[], Child], clock: FakeClock) -> None:
        """What cannot live is not started for ever."""
        kept = Kept("it", start, clock)
        for _ in range(2):
            kept.child.kill_group()
            kept.check()
            clock.now += 10
            kept.check()
        kept.child.kill_group()
        with pytest.raises(ServerDied, match=r"it died 3 times in a row \(signal SIGKILL\)"):
            kept.check()

    def test_deaths_far_apart_are_forgiven(self, start: Callable[[], Child], clock: FakeClock) -> None:
        """A server that dies once a day is started again for ever."""
        kept = Kept("it", start, clock)
        for _ in range(5):
            clock.now += 3600
            kept.child.kill_group()
            kept.check()
            clock.now += 1
            kept.check()
            assert kept.child.exit_status() is None
