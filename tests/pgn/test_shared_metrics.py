"""One folder of metrics for many processes: what adds up, what outlives a process, and what ends with it."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

_PROCESS = """
import math, sys
from pathlib import Path
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from pgn.shared_metrics import exposition, share
share(Path(sys.argv[1]), sys.argv[2])
share(Path(sys.argv[1]), sys.argv[2])
registry = CollectorRegistry()
counter = Counter("done", "Things done.", ("what",), registry=registry)
seconds = Histogram("took_seconds", "Time.", registry=registry, buckets=(1, 2))
busy = Gauge("busy", "Things at work.", registry=registry, multiprocess_mode="livesum")
level = Gauge("level", "By data set.", ("dataset",), registry=registry, multiprocess_mode="livemostrecent")
for line in sys.stdin:
    exec(line)
    sys.stdout.write("ok\\n")
    sys.stdout.flush()
"""


class Process:
    """A process of a service; it does what it is told, a line at a time."""

    def __init__(self, folder: Path, role: str) -> None:
        self._popen = subprocess.Popen(
            [sys.executable, "-c", _PROCESS, str(folder), role],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def do(self, *lines: str) -> None:
        assert self._popen.stdin is not None
        assert self._popen.stdout is not None
        for line in lines:
            self._popen.stdin.write(line + "\n")
            self._popen.stdin.flush()
            assert self._popen.stdout.readline() == "ok\n"

    def scrape(self, page: Path) -> dict[str, float]:
        """What it shows, by name and label values."""
        self.do(f"Path({str(page)!r}).write_bytes(exposition(registry))")
        return {
            " ".join((sample.name, *sample.labels.values())): sample.value
            for family in text_string_to_metric_families(page.read_text())
            for sample in family.samples
        }

    def kill(self) -> None:
        self._popen.send_signal(signal.SIGKILL)
        self._popen.communicate()


@contextmanager
def running(folder: Path, *roles: str) -> Iterator[list[Process]]:
    """Processes that share the folder; killed at the end."""
    processes = [Process(folder, role) for role in roles]
    try:
        yield processes
    finally:
        for process in processes:
            process.kill()


def test_any_process_shows_what_all_have_counted(tmp_path: Path) -> None:
    """Prometheus asks one of them, whichever accepts the connection."""
    with running(tmp_path / "metrics", "gateway", "gateway", "stage-vit") as processes:
        for number, process in enumerate(processes, 1):
            process.do("counter.labels('a').inc(10)", f"busy.set({number})", f"seconds.observe({number})")
        found = [process.scrape(tmp_path / "page") for process in processes]
    assert found[0] == found[1] == found[2]
    assert found[0] == {
        "done_total a": 30,
        "busy": 6,
        "took_seconds_bucket 1.0": 1,
        "took_seconds_bucket 2.0": 2,
        "took_seconds_bucket +Inf": 3,
        "took_seconds_count": 3,
        "took_seconds_sum": 6,
    }


def test_what_was_counted_outlives_the_process_and_what_was_true_of_it_does_not(tmp_path: Path) -> None:
    """A counter that goes down looks like a restart of everything; a dead worker has nothing in flight."""
    with running(tmp_path, "gateway", "gateway") as (first, second):
        first.do("counter.labels('a').inc(5)", "busy.set(4)")
        second.do("counter.labels('a').inc(3)", "busy.set(1)")
        first.kill()
        after = second.scrape(tmp_path / "page")
        assert (after["done_total a"], after["busy"]) == (8, 1)
        with running(tmp_path, "gateway") as (third,):
            third.do("counter.labels('a').inc(1)", "busy.set(2)")
            after = second.scrape(tmp_path / "page")
    assert (after["done_total a"], after["busy"]) == (9, 3)


def test_the_folder_is_as_large_as_the_service_however_often_it_restarts(tmp_path: Path) -> None:
    """A worker that dies every minute may not fill the disk."""
    sizes = []
    for _ in range(4):
        with running(tmp_path, "gateway") as (process,):
            process.do("counter.labels('a').inc()")
            assert process.scrape(tmp_path / "page")["done_total a"] == len(sizes) + 1
        (tmp_path / "page").unlink()
        sizes.append({file.name: file.stat().st_size for file in tmp_path.iterdir()})
    assert sizes[0] == sizes[-1]


def test_room_is_taken_before_it_is_needed(tmp_path: Path) -> None:
    """A page of a mapped file that a full disk cannot give would end the process with a signal."""
    with running(tmp_path, "gateway") as (process,):
        process.do("counter.labels('a').inc()")
        files = [file.stat() for file in tmp_path.glob("*.db")]
    assert len(files) == 6
    assert all(512 * status.st_blocks >= status.st_size >= 2**20 for status in files)


def test_a_gauge_that_is_not_a_number_is_not_shown(tmp_path: Path) -> None:
    """So the drift of a data set that was removed goes from the page."""
    with running(tmp_path, "stage-pgn") as (process,):
        process.do("level.labels('pets').set(1)", "level.labels('gone').set(1)", "level.labels('gone').set(math.nan)")
        assert process.scrape(tmp_path / "page") == {
            "level pets": 1,
            "busy": 0,
            **dict.fromkeys(("took_seconds_bucket 1.0", "took_seconds_bucket 2.0", "took_seconds_bucket +Inf"), 0),
            **dict.fromkeys(("took_seconds_count", "took_seconds_sum"), 0),
        }


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    """An operator reads what to set, not a traceback."""
    (tmp_path / "file").touch()
    code = (
        "import sys\nfrom pathlib import Path\n"
        "from pgn.errors import SetupError\nfrom pgn.shared_metrics import share\n"
        "try:\n    share(Path(sys.argv[1]), 'gateway')\nexcept SetupError as error:\n    print(error)\n"
    )
    told = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "file" / "below")], capture_output=True, text=True, check=True
    )
    assert "metrics cannot be written to" in told.stdout
    assert "PGN_METRICS_DIR" in told.stdout


@pytest.mark.parametrize("word", ["torch", "fastapi"])
def test_sharing_needs_neither_torch_nor_fastapi(word: str) -> None:
    """Gateway and stages both import it, and neither has the other's packages."""
    code = f"import sys, pgn.shared_metrics, pgn.stages.metrics; sys.exit({word!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
