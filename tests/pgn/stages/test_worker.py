"""A stage's process ends with its parent and logs where it is seen."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from pgn.errors import SetupError
from pgn.stages.worker import choose_device, count_cores
from tests.servers import wait_until

# The busy child never returns to Python's main loop of its own accord; it says who it is, and its parent waits.
_BUSY = (
    "import os; from pgn.stages.worker import *; end_with_parent(); print(os.getpid(), flush=True)\nwhile True: pass"
)
_PARENT = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {_BUSY!r}])"
_STARTING = """
import logging, os, resource, sys
from pathlib import Path
from typing import Any
from pgn.errors import IndexInvalid
from pgn.settings import Settings
from pgn.stages.worker import starting
logging.basicConfig(stream=open('/dev/null', 'w'))
with starting(Settings(log_format='json'), 'pgn'):
    files = resource.getrlimit(resource.RLIMIT_NOFILE)
    logging.getLogger('pgn.stages.bank').warning('bundle refused', extra={'files': files})
    if len(sys.argv) > 1:
        raise IndexInvalid('no index')
"""


def test_a_busy_worker_ends_with_a_killed_parent() -> None:
    """TorchServe's own loop looks at its socket only between batches."""
    with subprocess.Popen([sys.executable, "-c", _PARENT], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        worker = psutil.Process(int(parent.stdout.readline()))
        parent.kill()
        wait_until(lambda: not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE, "the worker's end")


def start(*arguments: str) -> tuple[int, list[dict[str, Any]]]:
    """The exit status of a process that starts a stage, and the lines of its log."""
    run = subprocess.run([sys.executable, "-c", _STARTING, *arguments], capture_output=True, text=True)
    return run.returncode, [json.loads(line) for line in run.stderr.splitlines()]


def test_the_log_goes_to_standard_error_in_the_form_that_was_asked_for() -> None:
    """TorchServe drops what a worker logs to standard output; a collector reads JSON from every process alike."""
    status, (line,) = start()
    assert status == 0
    assert (line["event"], line["role"], line["level"]) == ("bundle refused", "stage-pgn", "warning")


def test_as_many_files_can_be_open_as_the_system_allows() -> None:
    """Each mapped bundle keeps one; a thousand data sets are more than the usual limit."""
    _, (line,) = start()
    soft, hard = line["files"]
    assert soft == hard


def test_a_stage_that_cannot_start_says_why_in_one_line() -> None:
    """A traceback would hide the cause from whoever reads TorchServe's log."""
    status, (_, line) = start("fail")
    assert status == 1
    assert line["event"].startswith("stage pgn does not start: no index (restore index.json")
    assert "exception" not in line


def test_no_gpu_means_the_cpu() -> None:
    """The server gives None without one, and may give a number where torch sees none."""
    assert choose_device("auto", None) == choose_device("cpu", 0) == torch.device("cpu")
    assert choose_device("auto", 0).type == ("cuda" if torch.cuda.is_available() else "cpu")


def test_a_gpu_that_was_asked_for_and_is_not_there_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """A service that fell back to the CPU would be a hundred times too slow, and nobody would know why."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SetupError, match="PGN_DEVICE=cuda, and torch sees no CUDA device"):
        choose_device("cuda", 0)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert choose_device("cuda", 1) == torch.device("cuda:1")
    assert choose_device("cuda", None) == torch.device("cuda:0")


_THREADS = "import torch; from pgn.stages.worker import *; share_cores(); print(torch.get_num_threads())"


@pytest.mark.parametrize(
    ("wish", "threads"), [(None, max(1, int(count_cores() / 2))), ("2", min(2, int(count_cores())))]
)
def test_a_stage_takes_half_of_the_cores_or_what_it_is_told(wish: str | None, threads: int) -> None:
    """Two stages with all cores each would wait for each other."""
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    environment |= {} if wish is None else {"OMP_NUM_THREADS": wish}
    run = subprocess.run(
        [sys.executable, "-c", _THREADS], env=environment, stdout=subprocess.PIPE, text=True, check=True
    )
    assert int(run.stdout) == threads


@pytest.mark.parametrize(
    ("text", "cores"), [("50000 100000", 0.5), ("max 100000", None), ("100000000 100000", None), (None, None)]
)
def test_a_containers_limit_counts(tmp_path: Path, text: str | None, cores: float | None) -> None:
    """A container sees all cores of its node and may use few."""
    limit = tmp_path / "cpu.max"
    if text is not None:
        limit.write_text(text)
    assert count_cores(limit) == (cores or len(os.sched_getaffinity(0)))
