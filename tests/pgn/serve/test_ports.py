"""Ports are checked before anything is started."""

from __future__ import annotations

import socket

import pytest

from pgn.errors import PortTaken, SetupError
from pgn.serve.ports import check_port, free_port


def test_a_taken_port_is_named_with_the_remedy() -> None:
    """TorchServe would only say that it failed to bind."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(PortTaken, match=rf"port {port} on 127.0.0.1 is taken.*\(change it\)"):
            check_port("127.0.0.1", port, "change it")
    check_port("127.0.0.1", port, "change it")


def test_an_address_of_another_machine_is_told_apart() -> None:
    """There is nothing to wait for."""
    with pytest.raises(SetupError, match=r"192\.0\.2\.1") as raised:
        check_port("192.0.2.1", 8000, "set PGN_HOST")
    assert not isinstance(raised.value, PortTaken)


def test_a_free_port_is_free() -> None:
    """Tests and `--port 0` rely on it."""
    check_port("127.0.0.1", free_port("127.0.0.1"), "")
