"""Several gateway processes behind one listening socket, kept by uvicorn: it replaces one that dies or hangs."""

from __future__ import annotations

import ctypes
import multiprocessing
import signal
import socket
import sys
import time
from typing import Final

from fastapi import FastAPI
from uvicorn.config import STARTUP_FAILURE, Config
from uvicorn.supervisors import Multiprocess

from pgn.errors import PgnError, ServerDied
from pgn.gateway.app import create_app
from pgn.gateway.datasets import read_catalog
from pgn.logs import configure_logs
from pgn.settings import Settings, load_settings, read_torchserve_config
from pgn.shared_metrics import share
from pgn.store.local import LocalStore

_PR_SET_PDEATHSIG: Final = 1


def open_app(settings: Settings) -> FastAPI:
    """The application over what `settings` name; raises PgnError if it cannot start."""
    if settings.metrics_dir is not None:
        share(settings.metrics_dir, "gateway")
    torchserve = read_torchserve_config(settings.torchserve_config)
    return create_app(settings, torchserve, read_catalog(LocalStore(settings.store)))


def make_worker() -> FastAPI:
    """The application of one of several processes, which have their settings from the environment."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)  # a killed parent leaves no worker with the port
    parent = multiprocessing.parent_process()
    try:
        if parent is not None and not parent.is_alive():  # it died before we asked
            raise ServerDied("the gateway's parent process is gone")
        settings = load_settings()
        configure_logs(settings, "gateway")
        return open_app(settings)
    except PgnError as error:
        sys.stderr.write(f"pgn.gateway: {error}\n")
        sys.exit(STARTUP_FAILURE)  # told apart from a crash: another attempt would end the same way


class Workers(Multiprocess):
    """The supervising parent. SIGTERM and SIGINT are passed on; it ends when every worker has.

    Args:
        config: Of each worker's server.
        listener: The socket that all accept from.
        grace_s: How long the workers may take to end.
    """

    def __init__(self, config: Config, listener: socket.socket, *, grace_s: float) -> None:
        super().__init__(config, [listener])
        self._grace_s = grace_s

    def run(self) -> None:
        """Serve until a signal; raises ServerDied if a worker cannot start."""
        super().run()
        if any(process.exitcode == STARTUP_FAILURE for process in self.processes):
            raise ServerDied("the gateway's workers could not start")

    def terminate_all(self) -> None:
        """Tell the workers to end; theirs are now the last listening sockets: what they do not accept is refused."""
        for listener in self.sockets:
            listener.close()
        super().terminate_all()

    def join_all(self) -> None:
        """Wait for the workers to finish what is in flight, and kill what hangs."""
        end = time.monotonic() + self._grace_s
        for worker in self.processes:
            worker.process.join(max(0.0, end - time.monotonic()))
            worker.process.kill()
            worker.process.join()
