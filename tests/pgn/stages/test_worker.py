"""A stage's process ends with its parent and logs where it is seen."""

from __future__ import annotations

import subprocess
import sys

import psutil
import torch

from pgn.stages.worker import choose_device
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
