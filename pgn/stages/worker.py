"""What a process that hosts a stage does once: log where it is seen, end with its parent, share the cores."""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from pathlib import Path
from typing import Final

import torch

WATCH_INTERVAL_S: Final = 0.5
NUM_STAGES: Final = 2
CPU_LIMIT: Final = Path("/sys/fs/cgroup/cpu.max")


def log_to_stderr() -> None:
    """Warnings of this package go to standard error, which TorchServe passes on; it drops standard output."""
    log = logging.getLogger("pgn")
    if not log.handlers:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
        log.addHandler(handler)
    log.propagate = False


def end_with_parent() -> None:
    """Leave as soon as the parent is gone, even in the middle of a batch.

    A worker of TorchServe reads from its socket only between batches, so a busy one would outlive a killed server.
    The parent-death signal is no way: it follows the Java thread that started the worker, not the server.
    """
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(WATCH_INTERVAL_S)
        os._exit(1)

    threading.Thread(target=watch, name="end-with-parent", daemon=True).start()


def choose_device(gpu_id: int | None) -> torch.device:
    """The GPU that the server gave, or the CPU."""
    on_gpu = gpu_id is not None and torch.cuda.is_available()
    return torch.device(f"cuda:{gpu_id}" if on_gpu else "cpu")


def share_cores() -> None:
    """Let this stage compute on its half of the cores, unless OMP_NUM_THREADS says otherwise.

    Both stages work at the same time. Threads that have to wait for a core keep all others of their pass waiting: with
    as many threads as cores in both, small passes on a busy machine were seen to take fifteen times as long.
    """
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, int(count_cores() / NUM_STAGES)))


def count_cores(limit: Path = CPU_LIMIT) -> float:
    """The cores this process may use: what it is bound to, or less where a container's limit says so."""
    bound = float(len(os.sched_getaffinity(0)))
    try:
        quota, period = limit.read_text().split()
        return min(bound, int(quota) / int(period))
    except (OSError, ValueError):  # no such limit
        return bound
