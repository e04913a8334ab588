"""What a process that hosts a stage does once: log where it is seen, end with its parent, share the cores."""

from __future__ import annotations

import logging
import os
import resource
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Literal

import torch

from pgn.errors import PgnError, SetupError
from pgn.logs import configure_logs
from pgn.settings import Settings
from pgn.shared_metrics import share

WATCH_INTERVAL_S: Final = 0.5
NUM_STAGES: Final = 2
CPU_LIMIT: Final = Path("/sys/fs/cgroup/cpu.max")

_log = logging.getLogger(__name__)


@contextmanager
def starting(settings: Settings, stage: Literal["pgn", "vit"]) -> Iterator[None]:
    """Make this process fit for a stage, which is to be loaded inside; a foreseen fault is one line and its end."""
    configure_logs(settings, f"stage-{stage}", logger="pgn")
    end_with_parent()
    share_cores()
    allow_many_files()
    try:
        if settings.metrics_dir is not None:
            share(settings.metrics_dir, f"stage-{stage}")
        yield
    except PgnError as error:
        _log.error("stage %s does not start: %s", stage, error)
        raise SystemExit(1) from None


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


def choose_device(wish: Literal["auto", "cpu", "cuda"], gpu_id: int | None) -> torch.device:
    """Where the stage computes.

    Args:
        wish: "auto" takes the GPU that the server gave, and the CPU without one.
        gpu_id: The number of that GPU; None if the server found none.

    Raises:
        SetupError: A GPU was asked for and there is none.
    """
    if wish == "cuda" and not torch.cuda.is_available():
        raise SetupError(
            "PGN_DEVICE=cuda, and torch sees no CUDA device",
            hint="look at `nvidia-smi`, and whether this torch is built for CUDA; PGN_DEVICE=auto takes the CPU",
        )
    on_gpu = wish == "cuda" or (wish == "auto" and gpu_id is not None and torch.cuda.is_available())
    return torch.device(f"cuda:{gpu_id or 0}" if on_gpu else "cpu")


def share_cores() -> None:
    """Let this stage compute on its half of the cores, unless OMP_NUM_THREADS says otherwise.

    Both stages work at the same time. Threads that have to wait for a core keep all others of their pass waiting: with
    as many threads as cores in both, small passes on a busy machine were seen to take fifteen times as long.
    """
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, int(count_cores() / NUM_STAGES)))


def allow_many_files() -> None:
    """Open as many files as the system allows: every bundle stays mapped, and Python keeps a mapped file open."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def count_cores(limit: Path = CPU_LIMIT) -> float:
    """The cores this process may use: what it is bound to, or less where a container's limit says so."""
    bound = float(len(os.sched_getaffinity(0)))
    try:
        quota, period = limit.read_text().split()
        return min(bound, int(quota) / int(period))
    except (OSError, ValueError):  # no such limit
        return bound
