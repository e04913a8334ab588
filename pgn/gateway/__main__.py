"""`python -m pgn.gateway`: the gateway alone, as its container runs it. Settings come from `PGN_*`."""

from __future__ import annotations

import errno
import logging
import math
import os
import signal
import socket
import sys
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import uvicorn

from pgn.errors import PgnError, PortTaken, SetupError
from pgn.gateway.exposure import check_exposure
from pgn.gateway.protocol import BoundedProtocol
from pgn.gateway.workers import Workers, open_app
from pgn.logs import configure_logs
from pgn.settings import Settings, load_settings

_BACKLOG: Final = 2048
_IDLE_S: Final = 75  # longer than the 60 s of common load balancers: who closes first must not be the one that is asked

_HUNG_S: Final = 15  # a worker answers its parent's ping once it is started, which takes seconds on a busy machine
_KILL_AFTER_S: Final = 3.0  # beyond drain and deadline

_log = logging.getLogger("pgn.gateway")


def main() -> None:
    """Serve until SIGTERM or SIGINT; what is in flight is finished first, and the exit code is 0."""
    for number in (signal.SIGTERM, signal.SIGINT):  # uvicorn raises the signal once more when all is done
        signal.signal(number, lambda *_: sys.exit(0))
    try:
        settings = load_settings()
        configure_logs(settings, "gateway")
        serve(settings)
    except PgnError as error:
        sys.exit(f"pgn.gateway: {error}")


def serve(settings: Settings) -> None:
    """Serve until a signal ends it; with several workers they read their settings from the environment.

    Raises:
        PgnError: It cannot start.
    """
    check_exposure(settings)
    several = settings.workers > 1
    if several and settings.metrics_dir is None:
        with TemporaryDirectory(prefix="pgn-metrics-") as folder:
            os.environ["PGN_METRICS_DIR"] = folder  # the workers read it, and their metrics add up
            serve(settings.model_copy(update={"metrics_dir": Path(folder)}))
        return
    app = "pgn.gateway.workers:make_worker" if several else open_app(settings)
    with listen(settings.host, settings.port) as listener:
        host, port = listener.getsockname()[:2]
        if settings.keys is None:
            _log.warning(
                "no API keys: %s", "whoever reaches this port may ask" if settings.anonymous else "loopback only"
            )
        _log.info("listening", extra={"url": f"http://{host}:{port}"})
        config = uvicorn.Config(
            app,
            factory=several,
            workers=settings.workers,
            http=BoundedProtocol,
            ws="none",
            log_config=None,
            log_level="warning",
            access_log=False,  # the edge writes a line, at level info
            server_header=False,
            timeout_keep_alive=_IDLE_S,
            timeout_worker_healthcheck=_HUNG_S,
            timeout_graceful_shutdown=math.ceil(settings.deadline_s) + 1,
        )
        if several:
            Workers(config, listener, grace_s=settings.drain_delay_s + settings.deadline_s + _KILL_AFTER_S).run()
        else:
            with suppress(KeyboardInterrupt):
                uvicorn.Server(config).run(sockets=[listener])


def listen(host: str, port: int) -> socket.socket:
    """A socket that accepts connections at the address.

    Raises:
        PortTaken: Another program listens there.
        SetupError: The address is not this machine's.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # With the protocol named, asyncio sets TCP_NODELAY on what is accepted; without, each answer waits for 40 ms.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise PortTaken(f"port {port} of {host} is taken", hint="end the other program, or set PGN_PORT") from error
        raise SetupError(f"cannot listen on {host}:{port}: {error.strerror}", hint="set PGN_HOST") from error
    return listener


if __name__ == "__main__":
    main()
