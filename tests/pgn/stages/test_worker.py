"""A stage's process ends with its parent and logs where it is seen."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import torch

from pgn.stages.worker import choose_device, count_cores
from tests.servers import wait_until

# The busy child never returns to Python's main loop of its own accord; it says who it is, and its parent waits.
_BUSY = (
    "import os; from pgn.stages.worker import *; end_with_parent(); print(os.getpid(), flush=True)\nwhile True: pass"
)
_PARENT = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {_BUSY!r}])"
_LOGGING = """
import logging
from pgn.stages.worker import log_to_stderr
logging.basicConfig(stream=open('/dev/null', 'w'))
log_to_stderr()
logging.getLogger('pgn.stages.bank').warning('bundle refused')
"""


def test_a_busy_worker_ends_with_a_killed_parent() -> None:
    """TorchServe's own loop looks at its socket only between batches."""
    with subprocess.Popen([sys.executable, "-c", _PARENT], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        worker = psutil.Process(int(parent.stdout.readline()))
        parent.kill()
        wait_until(lambda: not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE, "the worker's end")


def test_warnings_reach_standard_error() -> None:
    """TorchServe drops what a worker logs to standard output."""
    run = subprocess.run([sys.executable, "-c", _LOGGING], capture_output=True, text=True, check=True)
    assert run.stderr == "WARNING pgn.stages.bank: bundle refused\n"


def test_no_gpu_means_the_cpu() -> None:
    """The server gives None without one, and may give a number where torch sees none."""
    assert choose_device(None) == torch.device("cpu")
    assert choose_device(0).type == ("cuda" if torch.cuda.is_available() else "cpu")


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
