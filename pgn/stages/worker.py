"""What a process that hosts a stage does once: log where it is seen, end with its parent, choose its device."""

from __future__ import annotations

import logging
import os
import sys
import threading
import time

import torch

WATCH_INTERVAL_S = 0.5


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
