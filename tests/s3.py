"""A real S3 server for tests: SeaweedFS on free ports, with keys of different rights, and a way to disturb boto3."""

from __future__ import annotations

import http.client
import http.server
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
from botocore.awsrequest import AWSResponse
from botocore.config import Config

BUCKET = "bundles"
_START_S = 60
_RIGHTS = {
    "admin": ["Admin"],
    "rw": [f"Read:{BUCKET}", f"Write:{BUCKET}", f"List:{BUCKET}"],  # those of docs/s3.md
    "ro": [f"Read:{BUCKET}", f"List:{BUCKET}"],
}


@dataclass(frozen=True)
class RunningS3:
    """A server with one bucket; `rw` may publish, `ro` may read, and there is a user whose secret is wrong."""

    endpoint: str

    def environment(self, user: str = "rw") -> dict[str, str]:
        """What boto3 reads for this user: nothing of the machine's own configuration."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": "rw-key" if user == "wrong" else f"{user}-key",
            "AWS_SECRET_ACCESS_KEY": f"{user}-secret",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def client(self) -> Any:
        """boto3's own client, for looking at the bucket from outside and for spoiling it."""
        return boto3.session.Session().client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id="admin-key",
            aws_secret_access_key="admin-secret",
            region_name="us-east-1",
            config=Config(s3={"addressing_style": "path"}),
        )


def find_weed() -> Path | None:
    """SeaweedFS's program: beside this Python, or on the PATH; None if it is not installed."""
    found = shutil.which("weed", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    return Path(found) if found else None


@contextmanager
def running_s3(weed: Path, folder: Path) -> Iterator[RunningS3]:
    """SeaweedFS over `folder` until the end of the block; killed, as its own way out takes half a minute."""
    identities = [
        {"name": name, "credentials": [{"accessKey": f"{name}-key", "secretKey": f"{name}-secret"}], "actions": rights}
        for name, rights in _RIGHTS.items()
    ]
    (folder / "identities.json").write_text(json.dumps({"identities": identities}))
    master, volume, filer, s3 = _free_pairs(4)
    command = [
        *(str(weed), "server", f"-dir={folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1"),
        *(f"-master.port={master}", f"-volume.port={volume}", "-filer=true", f"-filer.port={filer}"),
        *("-s3", f"-s3.port={s3}", f"-s3.config={folder / 'identities.json'}"),
        *("-s3.port.iceberg=0", "-s3.port.lance=0", "-volume.preStopSeconds=0", "-volume.max=20"),
        *("-master.volumeSizeLimitMB=64", "-master.telemetry=false"),
    ]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder)
    try:
        server = RunningS3(f"http://127.0.0.1:{s3}")
        _wait(lambda: _is_up(s3), folder / "log")
        _wait(lambda: _makes_bucket(server), folder / "log")
        yield server
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


def _free_pairs(count: int) -> list[int]:
    """Free ports whose neighbour 10,000 above is free too: SeaweedFS takes both."""
    found: list[int] = []
    held = []
    for port in range(21000 + os.getpid() % 9000, 45000):
        pair = [socket.socket(), socket.socket()]
        held += pair
        try:
            for each, number in zip(pair, (port, port + 10000), strict=True):
                each.bind(("127.0.0.1", number))
        except OSError:
            continue
        found.append(port)
        if len(found) == count:
            break
    for each in held:
        each.close()
    return found


def _is_up(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/healthz")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def _makes_bucket(server: RunningS3) -> bool:
    client = server.client()
    try:
        client.create_bucket(Bucket=BUCKET)
        client.put_object(Bucket=BUCKET, Key="started", Body=b"yes")  # the first volumes are made now
    except client.exceptions.BucketAlreadyExists:
        return True
    except Exception:
        return False
    return True


def _wait(condition: Callable[[], bool], log: Path) -> None:
    end = time.monotonic() + _START_S
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(log.read_text()[-2000:])
        time.sleep(0.1)


def answer(status: int, code: str) -> AWSResponse:
    """An error as S3 would answer it: for a handler of botocore's `before-send`, which then sends nothing."""
    body = f"<Error><Code>{code}</Code><Message>scripted</Message></Error>".encode()

    class Raw:
        def stream(self, *_: object, **__: object) -> Iterator[bytes]:
            yield body

    return AWSResponse("http://scripted", status, {}, Raw())  # type: ignore[arg-type]


@contextmanager
def cutting_proxy(target: str, path: str, after_bytes: int) -> Iterator[str]:
    """An address that passes everything on to `target`, but hangs up after so many bytes of the answer for `path`."""
    host, port = target.removeprefix("http://").split(":")

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            connection = http.client.HTTPConnection(host, int(port), timeout=30)
            connection.request("GET", self.path, headers=dict(self.headers))
            response = connection.getresponse()
            body = response.read()
            connection.close()
            self.send_response(response.status)
            for name, value in response.getheaders():
                if name.lower() not in ("transfer-encoding", "connection"):
                    self.send_header(name, value)
            self.end_headers()
            if path in self.path and response.status < 300:
                self.wfile.write(body[:after_bytes])
                self.close_connection = True
            else:
                self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
