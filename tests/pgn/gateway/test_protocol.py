"""Connections of slow and of talkative clients end."""

from __future__ import annotations

import resource
import socket
import threading
from collections.abc import Iterator

import httpx
import pytest
import uvicorn
from starlette.types import Receive, Scope, Send

from pgn.gateway import protocol
from pgn.gateway.__main__ import listen
from pgn.gateway.protocol import HEAD_BYTES, BoundedProtocol
from tests.pgn.gateway.conftest import wait_until

HEAD = b"GET / HTTP/1.1\r\nHost: x\r\n"


async def say_ok(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers every request once its body is there."""
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server waits for a fraction of a second."""
    monkeypatch.setattr(protocol, "HEAD_S", 0.3)


@pytest.fixture
def port() -> Iterator[int]:
    """Where a server listens."""
    config = uvicorn.Config(
        say_ok, http=BoundedProtocol, ws="none", lifespan="off", log_config=None, timeout_keep_alive=3600
    )
    server = uvicorn.Server(config)
    with listen("127.0.0.1", 0) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        wait_until(lambda: server.started)
        yield listener.getsockname()[1]
        server.should_exit = True
        thread.join(30)
        assert not thread.is_alive()


def read_to_end(client: socket.socket) -> bytes:
    """What comes until the server closes."""
    client.settimeout(30)
    received = b""
    try:
        while part := client.recv(65536):
            received += part
    except ConnectionResetError:
        pass
    return received


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("sent", [b"", b"GET", HEAD, HEAD + b"Accept: "])
def test_a_head_that_does_not_come_ends_the_connection(port: int, sent: bytes) -> None:
    """Clients that send nothing, or stop in the middle, would otherwise collect until no file can be opened."""
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.sendall(sent)
        assert read_to_end(client) == b""


@pytest.mark.usefixtures("impatient")
def test_a_second_head_has_as_much_time_and_no_more(port: int) -> None:
    """A kept connection is no way around the limit."""
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.sendall(HEAD + b"\r\n")
        assert client.recv(65536).startswith(b"HTTP/1.1 200 OK")
        client.sendall(HEAD)
        assert b"HTTP" not in read_to_end(client)


def test_a_head_without_end_is_refused(port: int) -> None:
    """Its bytes would be kept for as long as they come."""
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.sendall(HEAD)
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            client.sendall((b"X-More: " + b"x" * HEAD_BYTES + b"\r\n") * 1000)


def test_a_long_body_is_no_long_head(port: int) -> None:
    """Bodies have their own limit, and may take longer than a head."""
    for size in (10, HEAD_BYTES * 40):
        assert httpx.post(f"http://127.0.0.1:{port}/", content=b"x" * size).status_code == 200


def test_requests_one_after_the_other_share_a_connection(port: int) -> None:
    """The bounds are of each request, not of the connection."""
    with httpx.Client(base_url=f"http://127.0.0.1:{port}") as http:
        for _ in range(5):
            answer = http.get("/", headers={"X-Long": "x" * (HEAD_BYTES // 2)})
            assert (answer.status_code, answer.headers.get("connection")) == (200, None)


def test_connections_do_not_take_every_open_file(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """TorchServe is reached by connections, too, and the model store by files."""
    monkeypatch.setattr(resource, "getrlimit", lambda _: (4, 4))
    with socket.create_connection(("127.0.0.1", port)) as one, socket.create_connection(("127.0.0.1", port)) as two:
        for client in (one, two):
            client.sendall(HEAD)
        with socket.create_connection(("127.0.0.1", port)) as third:
            third.sendall(HEAD + b"\r\n")
            assert read_to_end(third) == b""
        one.sendall(b"Connection: close\r\n\r\n")
        assert b"200 OK" in read_to_end(one)
