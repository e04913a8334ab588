"""`pgn serve`: one line when it is ready, everything stopped in the end, however it ends."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pgn.errors import DiskFull, PortTaken, ServerDied, SetupError, StoreUnavailable
from pgn.serve import serve
from pgn.serve.child import Child
from pgn.serve.ports import free_port
from pgn.serve.supervisor import Kept, Stop, _heed_verdict, _sync_first, _wait_ready
from pgn.serve.torchserve import environment
from pgn.settings import Settings, read_torchserve_config
from pgn.store.local import LocalStore
from tests.served import Served, served
from tests.servers import call, is_up, make_settings, processes_with, wait_until
from tests.toys import make_backbone, make_bundle, make_images, make_store


def toys(folder: Path, **changes: Any) -> Settings:
    """Settings over a small store."""
    return make_settings(make_store(folder / "store", ["flowers", "pets"]).root, folder, **changes)


def test_it_says_where_it_listens_and_ends_with_a_signal(tmp_path: Path) -> None:
    """One line on standard output, status 0, no process, no folder."""
    with served(toys(tmp_path)) as server:
        line = server.first_line()
        assert line == f"pgn serve: listening on {server.url}  (data sets: flowers, pets; Ctrl-C stops)\n"
        status, _ = call("POST", f"{server.url}/v1/datasets/pets/predict", make_images(1)[0])
        assert status == 200
        server_environment, gateway_environment = (
            server.find(word).environ() for word in ("ModelServer", "pgn.gateway")
        )
        folder = Path(server_environment["TMPDIR"]).parent
        assert Path(server_environment["PGN_METRICS_DIR"]) == folder / "metrics"
        assert gateway_environment["PGN_METRICS_DIR"] == server_environment["PGN_METRICS_DIR"]
        server.process.terminate()
        assert server.process.wait() == 0
        assert server.process.stdout is not None
        assert server.process.stdout.read() == ""
        assert server.family() == []
        assert not folder.exists()


def test_killed_it_leaves_no_process(tmp_path: Path) -> None:
    """Nobody has to look for a forgotten JVM that holds the ports."""
    with served(toys(tmp_path)) as server:
        server.first_line()
        assert len(server.family()) == 5  # itself, gateway, JVM, a worker for each stage
        server.process.kill()
        wait_until(lambda: server.family() == [], "the end of all processes")


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
    bundle, _ = store.publish(path)
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


@pytest.fixture
def clock() -> FakeClock:
    """Starts at zero."""
    return FakeClock()


@pytest.fixture
def start() -> Iterator[Callable[[], Child]]:
    """Starts a child that lives until it is killed; whatever is left is killed in the end."""
    children: list[Child] = []

    def start_one() -> Child:
        children.append(Child(["sleep", "600"], env=dict(os.environ)))
        return children[-1]

    yield start_one
    for child in children:
        child.kill_group()


class TestKept:
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

    def test_a_child_that_is_ill_is_ended_and_started_again(self, start: Callable[[], Child], clock: FakeClock) -> None:
        """It lives, so nobody else would end it."""
        kept = Kept("it", start, clock)
        ill = kept.child
        kept.restart("it answers nobody")
        assert ill.exit_status() is not None
        clock.now += 1
        kept.check()
        assert kept.child is not ill
        assert kept.child.exit_status() is None

    def test_one_that_is_never_well_is_given_up(self, start: Callable[[], Child], clock: FakeClock) -> None:
        """However long each of them was waited for."""
        kept = Kept("it", start, clock)
        for _ in range(2):
            clock.now += 3600
            kept.restart("it answers nobody")
            clock.now += 10
            kept.check()
        with pytest.raises(ServerDied, match=r"it had to be ended 3 times in a row \(it answers nobody\)"):
            kept.restart("it answers nobody")

    def test_one_that_was_well_in_between_is_restarted_for_ever(
        self, start: Callable[[], Child], clock: FakeClock
    ) -> None:
        """A slow leak is no reason to end the service."""
        kept = Kept("it", start, clock)
        for _ in range(5):
            kept.was_well = True
            kept.restart("ever more threads")
            clock.now += 1
            kept.check()
            assert not kept.was_well


class TestHeedVerdict:
    """What `pgn serve` does with what the gateway says of TorchServe."""

    PATIENCE_S = 60.0

    @pytest.fixture
    def said(self) -> dict[str, tuple[int, list[str]]]:
        """The gateway's answers, by path."""
        return {}

    @pytest.fixture
    def settings(self, said: dict[str, tuple[int, list[str]]], tmp_path: Path) -> Iterator[Settings]:
        """Of a gateway that says what it is told to."""

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                status, reasons = said[self.path]
                body = json.dumps({"reasons": reasons}).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """Nothing."""

        with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
            thread = threading.Thread(target=server.serve_forever, args=(0.01,))
            thread.start()
            yield Settings(port=server.server_address[1], restart_after_s=self.PATIENCE_S)
            server.shutdown()
            thread.join()

    def test_torchserve_is_restarted_when_nothing_else_helps(
        self,
        settings: Settings,
        said: dict[str, tuple[int, list[str]]],
        start: Callable[[], Child],
        clock: FakeClock,
        capfd: pytest.CaptureFixture[str],
    ) -> None:
        """And the owner reads why."""
        said["/readyz"] = said["/livez/torchserve"] = (503, ["stage.stuck: stage vit answers nobody"])
        kept = Kept("TorchServe", start, clock)
        clock.now += self.PATIENCE_S + 1
        _heed_verdict(settings, kept)
        assert kept.child.exit_status() is not None
        told = "TorchServe had to be ended (stage.stuck: stage vit answers nobody); it is started again"
        assert told in capfd.readouterr().err

    def test_a_verdict_on_the_one_before_is_not_held_against_a_new_one(
        self,
        settings: Settings,
        said: dict[str, tuple[int, list[str]]],
        start: Callable[[], Child],
        clock: FakeClock,
    ) -> None:
        """The gateway needs a look to see that it is new."""
        said["/readyz"] = said["/livez/torchserve"] = (503, ["stage.stuck: stage vit answers nobody"])
        kept = Kept("TorchServe", start, clock)
        clock.now += self.PATIENCE_S - 1
        _heed_verdict(settings, kept)
        assert kept.child.exit_status() is None

    def test_not_ready_alone_restarts_nothing(
        self,
        settings: Settings,
        said: dict[str, tuple[int, list[str]]],
        start: Callable[[], Child],
        clock: FakeClock,
    ) -> None:
        """It may yet recover, or wait for something else."""
        said["/readyz"] = (503, ["bank.empty: nothing"])
        said["/livez/torchserve"] = (200, [])
        kept = Kept("TorchServe", start, clock)
        clock.now += self.PATIENCE_S + 1
        _heed_verdict(settings, kept)
        assert kept.child.exit_status() is None
        assert not kept.was_well

    def test_a_gateway_that_does_not_answer_has_no_verdict(
        self, tmp_path: Path, start: Callable[[], Child], clock: FakeClock
    ) -> None:
        """TorchServe is not the one to blame."""
        kept = Kept("TorchServe", start, clock)
        clock.now += 3600
        _heed_verdict(make_settings(tmp_path, tmp_path), kept)
        assert kept.child.exit_status() is None
        assert not kept.was_well


class TestSyncFirst:
    @pytest.fixture
    def away(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
        """Settings with a bucket at an address where nobody listens."""
        for name, value in {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{free_port('127.0.0.1')}",
            "AWS_ACCESS_KEY_ID": "someone",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_MAX_ATTEMPTS": "1",
        }.items():
            monkeypatch.setenv(name, value)
        return make_settings(tmp_path / "store", tmp_path, remote="s3://bucket/prefix")

    def test_without_bucket_and_folder_there_is_nothing_to_serve(self, away: Settings) -> None:
        """One line that names the bucket."""
        with pytest.raises(StoreUnavailable, match=r"s3://bucket|127\.0\.0\.1"):
            _sync_first(away)

    def test_a_bucket_that_is_away_stops_nobody_who_has_the_folder(
        self, away: Settings, capfd: pytest.CaptureFixture[str]
    ) -> None:
        """A machine that starts while S3 is away serves what it had."""
        make_store(away.store, ["pets"])
        (away.store / "sync.json").write_text(json.dumps({"remote": away.remote}))
        _sync_first(away)
        assert "is served as it is" in capfd.readouterr().err
