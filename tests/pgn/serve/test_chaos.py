"""`pgn serve` under load while its processes are killed, stopped and starved: no wrong answer, and well again soon."""

from __future__ import annotations

import signal
import subprocess
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from pgn.settings import read_torchserve_config
from tests.faults import FAULTS, Fault, check, survive
from tests.load import BROKEN, UNAVAILABLE, Load, Question, bad_questions, good_questions
from tests.served import Served, served
from tests.servers import call, make_settings, multipart, wait_until, write_config
from tests.toys import make_images, make_store

DATASETS = ("flowers", "pets", "shapes")
IMAGES = make_images(4)
QUEUE = 24
QUICK = {"kill -9 stage vit's worker", "kill -9 TorchServe's JVM", "kill -9 the gateway"}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model store."""
    return make_store(tmp_path_factory.mktemp("chaos") / "store", DATASETS).root


@pytest.fixture(scope="module")
def good(store: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Question]:
    """Questions with their right answers."""
    return good_questions(make_settings(store, tmp_path_factory.mktemp("good")), DATASETS, IMAGES)


@pytest.fixture(scope="module")
def server(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """One service with two gateway processes for all faults that leave it alive."""
    settings = make_settings(store, tmp_path_factory.mktemp("served"), workers=2, restart_after_s=20.0)
    with served(settings) as server:
        assert "listening" in server.first_line()
        yield server


def marked(fault: Fault) -> object:
    """The fault as a parameter; what takes long only runs when it is asked for."""
    return pytest.param(fault, id=fault.name, marks=() if fault.name in QUICK else pytest.mark.slow)


@pytest.mark.parametrize("fault", [marked(fault) for fault in FAULTS])
def test_a_fault_under_load_gives_no_wrong_answer_and_passes(
    server: Served, good: list[Question], fault: Fault
) -> None:
    """Every answer is right, every failure asks to try again, readiness says what is wrong, and nobody has to help."""
    server.wait_ready()
    check(fault, survive(server, fault, good, bad_questions("pets", IMAGES[0])))


def test_ctrl_c_ends_it_after_all_that(server: Served) -> None:
    """Children that were started again are ended like the first ones."""
    server.wait_ready()
    server.process.send_signal(signal.SIGINT)
    assert server.process.wait(60) == 0
    assert server.family() == []


@pytest.mark.slow
def test_killed_under_load_it_leaves_no_process(store: Path, good: list[Question], tmp_path: Path) -> None:
    """Its clients see broken connections and nothing else, and whoever starts it again finds the ports free."""
    settings = make_settings(store, tmp_path, workers=2)
    for _ in range(2):
        with served(settings) as server:
            assert "listening" in server.first_line()
            with Load(server.url, good) as load:
                wait_until(lambda: load.statuses[200] >= 100, "the load to begin")
                server.process.kill()
                wait_until(lambda: server.family() == [], "the end of all processes")
                wait_until(lambda: load.statuses[BROKEN] > 0, "the clients to notice")
            assert load.wrong == []
            assert load.statuses.keys() <= {200, BROKEN} | UNAVAILABLE


@pytest.mark.slow
def test_a_signal_under_load_ends_it_without_an_error(store: Path, good: list[Question], tmp_path: Path) -> None:
    """Until the gateway has gone every request is answered; TorchServe goes last."""
    settings = make_settings(store, tmp_path, drain_delay_s=2.0)
    with served(settings) as server:
        server.first_line()
        with Load(server.url, good) as load:
            wait_until(lambda: load.statuses[200] >= 100, "the load to begin")
            server.process.terminate()
            assert server.process.wait(60) == 0
        assert server.family() == []
        assert load.wrong == []
        assert load.statuses.keys() <= {200, BROKEN}  # nobody listens at the end


@pytest.mark.slow
def test_a_real_leak_of_threads_has_torchserve_restarted(store: Path, good: list[Question], tmp_path: Path) -> None:
    """TorchServe's own executor of workflows keeps the threads of each request that fails in it, for ever."""
    settings = make_settings(store, tmp_path, restart_after_s=6.0, max_in_flight=QUEUE - 4)
    write_config(tmp_path, job_queue_size=str(QUEUE))
    with served(settings) as server:
        server.first_line()
        jvm = server.find("ModelServer")
        while jvm.is_running():
            leak(server)
        server.wait_ready()
        assert server.metric("pgn_torchserve_restarts_total") >= 1
        with Load(server.url, good) as load:
            wait_until(lambda: load.statuses[200] >= 100, "good answers")
        assert load.wrong == []


def leak(server: Served) -> None:
    """Fill a stopped stage's queue, and let requests to TorchServe itself fail for want of room in it."""
    worker = server.worker("pgn")
    if worker is None:
        return
    url = read_torchserve_config(server.settings.torchserve_config).inference + "/wfpredict/pgn"
    body, content_type = multipart({"image": IMAGES[0], "dataset": b"pets"})

    def ask(_: int) -> None:
        with suppress(OSError):  # the restart that all this is for
            call("POST", url, body, {"Content-Type": content_type}, timeout_s=20)

    with suppress(psutil.NoSuchProcess), ThreadPoolExecutor(2 * QUEUE) as clients:
        worker.suspend()
        try:
            waiting = [clients.submit(ask, number) for number in range(3 * QUEUE)]
            wait_until(lambda: sum(each.done() for each in waiting) > QUEUE / 2, "requests to fail", 30)
        finally:
            worker.resume()


@pytest.mark.slow
def test_a_full_disk_stops_no_answer(store: Path, good: list[Question], tmp_path: Path) -> None:
    """The run folder is full: what is served lies elsewhere, and nothing that a request does needs room."""
    disk = Path(tempfile.mkdtemp())  # a short path, for the sockets in it
    try:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "none", disk], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        disk.rmdir()
        pytest.skip("a small disk of its own needs the right to mount one")
    try:
        settings = make_settings(store, tmp_path / "settings", workers=2)
        with served(settings, TMPDIR=str(disk)) as server:
            assert "listening" in server.first_line()
            with Load(server.url, good, bad_questions("pets", IMAGES[0])) as load:
                wait_until(lambda: load.statuses[200] >= 100, "the load to begin")
                fill(disk)
                answered = load.statuses[200]
                wait_until(lambda: load.statuses[200] >= answered + 500, "answers from a full disk")
            assert load.wrong == []
            assert load.failed == 0
    finally:
        subprocess.run(["umount", "-l", disk], check=True)
        disk.rmdir()


def fill(disk: Path) -> None:
    """Leave no byte."""
    with suppress(OSError), (disk / "ballast").open("wb", buffering=0) as file:
        while True:
            file.write(bytes(2**16))
