"""`python -m pgn.gateway`: the gateway alone, as its container runs it. Settings come from `PGN_*`."""

from __future__ import annotations

import errno
import logging
import math
import socket
import sys
from contextlib import suppress

import uvicorn

from pgn.errors import PgnError, PortTaken, SetupError
from pgn.gateway.app import create_app
from pgn.gateway.datasets import read_catalog
from pgn.settings import Settings, load_settings, read_torchserve_config
from pgn.store.local import LocalStore

_BACKLOG = 2048

_log = logging.getLogger(__name__)


def main() -> None:
    """Serve until SIGTERM or SIGINT; what is in flight is finished first."""
    try:
        settings = load_settings()
        log_format = "%(asctime)s %(levelname)s %(name)s %(message)s"
        logging.basicConfig(level=settings.log_level.upper(), format=log_format)
        serve(settings)
    except PgnError as error:
        sys.exit(f"pgn.gateway: {error}")


def serve(settings: Settings) -> None:
    """Serve until a signal ends it; raises PgnError if it cannot start."""
    app = create_app(
        settings, read_torchserve_config(settings.torchserve_config), read_catalog(LocalStore(settings.store))
    )
    with listen(settings.host, settings.port) as listener:
        host, port = listener.getsockname()[:2]
        _log.info("event=listening url=http://%s:%d", host, port)
        config = uvicorn.Config(
            app,
            log_config=None,
            log_level="warning",
            access_log=False,  # /metrics counts; a line for each request costs more than the request's own work here
            server_header=False,
            timeout_graceful_shutdown=math.ceil(settings.deadline_s) + 1,
        )
        with suppress(KeyboardInterrupt):  # uvicorn raises the signal once more when all is done
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
