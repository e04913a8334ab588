"""Ports: free, or taken by somebody whose place we cannot have."""

from __future__ import annotations

import errno
import socket

from pgn.errors import PortTaken, SetupError


def check_port(host: str, port: int, remedy: str) -> None:
    """Pass if a server could listen on `port` now.

    Raises:
        PortTaken: Somebody listens there; `remedy` says what to change.
        SetupError: The address is not this machine's, or the port may not be used.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
            probe.listen()
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise PortTaken(f"port {port} on {host} is taken by another program", hint=remedy) from error
            raise SetupError(f"cannot listen on {host} port {port}: {error.strerror}", hint=remedy) from error


def free_port(host: str) -> int:
    """A port that nobody listens on now."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])
