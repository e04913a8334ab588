"""Real servers for tests: a TorchServe of its own on free ports, with the workflow registered."""

from __future__ import annotations

import http.client
import json
import os
import re
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil

from pgn.archive import Archives
from pgn.serve.ports import free_port
from pgn.serve.torchserve import TorchServe
from pgn.settings import Settings, TorchServeConfig

ROOT = Path(__file__).resolve().parents[1]
WAIT_S = 120


@dataclass
class RunningTorchServe:
    """A TorchServe that serves the workflow."""

    server: TorchServe
    settings: Settings

    @property
    def config(self) -> TorchServeConfig:
        return self.server.config

    @property
    def jvm(self) -> psutil.Process:
        return psutil.Process(self.server.child.pid)

    def predict(self, image: bytes, dataset: str, **fields: str) -> tuple[int, dict[str, Any]]:
        """POST /wfpredict/pgn as a person would: multipart."""
        body, content_type = multipart(
            {"image": image, "dataset": dataset.encode(), **{k: v.encode() for k, v in fields.items()}}
        )
        return self.ask(body, content_type)

    def ask(self, body: bytes, content_type: str) -> tuple[int, dict[str, Any]]:
        """POST /wfpredict/pgn with any body."""
        status, answer = call("POST", f"{self.config.inference}/wfpredict/pgn", body, {"Content-Type": content_type})
        return status, json.loads(answer)


@contextmanager
def running_torchserve(store: Path, folder: Path, *, archives: Archives | None = None) -> Iterator[RunningTorchServe]:
    """TorchServe on free ports over the model store at `store`, both stages loaded; stopped at the end."""
    settings = make_settings(store, folder)
    with TorchServe(settings, archives=archives) as server:
        server.start()
        try:
            wait_until(lambda: is_up(server.config.inference), "TorchServe to come up")
            register(server.config)
        except BaseException:
            print(server.log.read_text())
            raise
        yield RunningTorchServe(server, settings)


def make_settings(store: Path, folder: Path, **changes: Any) -> Settings:
    """Settings with free ports everywhere; the settings file of TorchServe is written into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    config = write_config(folder)
    values = {"store": store, "torchserve_config": config, "port": free_port("127.0.0.1"), **changes}
    return Settings(**values)


def write_config(folder: Path, **changes: str) -> Path:
    """The project's config.properties with free ports, and with `changes`."""

    def change(line: re.Match[str]) -> str:
        name, value = line["name"], line["value"]
        if name in changes:
            return f"{name}={changes[name]}"
        if name.endswith("_port"):
            return f"{name}={free_port('127.0.0.1')}"
        return f"{name}=" + re.sub(r"(?<=127\.0\.0\.1:)\d+", lambda _: str(free_port("127.0.0.1")), value)

    text = (ROOT / "config.properties").read_text()
    path = folder / "config.properties"
    path.write_text(re.sub(r"(?m)^(?P<name>\w+)=(?P<value>.*)$", change, text))
    return path


def register(config: TorchServeConfig) -> None:
    """Register the workflow; TorchServe answers when both stages have loaded."""
    url = f"{config.management}/workflows?url=pgn.war&response_timeout=60&startup_timeout=120"
    status, answer = call("POST", url, timeout_s=WAIT_S)
    if status != 200:
        raise AssertionError(f"the workflow was not registered: {status} {answer!r}")


def is_up(address: str) -> bool:
    """Whether TorchServe's inference port answers its ping."""
    try:
        return call("GET", f"{address}/ping")[0] == 200
    except OSError:
        return False


def call(
    method: str, url: str, body: bytes | None = None, headers: Mapping[str, str] | None = None, *, timeout_s: float = 60
) -> tuple[int, bytes]:
    """One HTTP request on a connection of its own."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=timeout_s)
    try:
        connection.request(method, parts.path + (f"?{parts.query}" if parts.query else ""), body, dict(headers or {}))
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def multipart(fields: Mapping[str, bytes]) -> tuple[bytes, str]:
    """A multipart body and its content type."""
    boundary = uuid.uuid4().hex
    parts = [
        f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"; filename="{name}"\r\n\r\n'.encode() + value
        for name, value in fields.items()
    ]
    return b"\r\n".join([*parts, f"--{boundary}--\r\n".encode()]), f"multipart/form-data; boundary={boundary}"


def wait_until(condition: Callable[[], bool], what: str, timeout_s: float = WAIT_S) -> None:
    """Return once `condition()` holds."""
    end = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > end:
            raise AssertionError(f"waited {timeout_s:g} s in vain for {what}")
        time.sleep(0.05)


def processes_with(text: str) -> list[psutil.Process]:
    """Running processes, this one apart, that have `text` in their environment."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and any(text in value for value in process.environ().values()):
                found.append(process)
        except psutil.Error:
            continue
    return [process for process in found if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]
