"""`pgn serve` as a process of its own, as a person starts it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import psutil

from pgn.serve.torchserve import environment
from pgn.settings import Settings, read_torchserve_config
from tests.servers import call, processes_with, wait_until

_SERVE = """
import sys
from pgn.errors import PgnError
from pgn.serve import serve
from pgn.settings import load_settings
try:
    sys.exit(serve(load_settings()))
except PgnError as error:
    sys.exit(f"pgn serve: {error}")
"""


@dataclass
class Served:
    """A running `pgn serve`."""

    process: subprocess.Popen[str]
    settings: Settings

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.settings.port}"

    def first_line(self) -> str:
        """What it says once requests are answered."""
        assert self.process.stdout is not None
        return self.process.stdout.readline()

    def family(self) -> list[psutil.Process]:
        """All of its processes; they know each other by TorchServe's settings file."""
        return processes_with(str(self.settings.torchserve_config))

    def find(self, word: str) -> psutil.Process:
        """The one with `word` in its command line."""
        (found,) = (process for process in self.family() if any(word in part for part in process.cmdline()))
        return found

    def worker(self, stage: str) -> psutil.Process | None:
        """The process of a stage's only worker, if there is one."""
        management = read_torchserve_config(self.settings.torchserve_config).management
        try:
            answer = json.loads(call("GET", f"{management}/models/pgn__{stage}", timeout_s=5)[1])
            return psutil.Process(int(answer[0]["workers"][0]["pid"]))
        except (OSError, ValueError, LookupError, psutil.NoSuchProcess):
            return None

    def is_ready(self) -> bool:
        try:
            return call("GET", f"{self.url}/readyz", timeout_s=5)[0] == 200
        except OSError:
            return False

    def reasons(self, path: str = "/readyz") -> str:
        """Why it is not ready, or why TorchServe has to be restarted; empty if all is well or nobody answers."""
        try:
            return "; ".join(json.loads(call("GET", self.url + path, timeout_s=5)[1])["reasons"])
        except (OSError, ValueError):
            return ""

    def metric(self, line: str) -> float:
        """The value of a metric, written with its labels; 0 where there is none."""
        try:
            lines = call("GET", f"{self.url}/metrics", timeout_s=5)[1].decode().splitlines()
        except OSError:
            return 0.0
        return next((float(text.rpartition(" ")[2]) for text in lines if text.startswith(f"{line} ")), 0.0)

    def wait_ready(self) -> None:
        """Return once it is ready."""
        wait_until(self.is_ready, "pgn serve to be ready")


@contextmanager
def served(settings: Settings, **variables: str) -> Iterator[Served]:
    """`pgn serve` with these settings and variables of the environment, ready or not; killed at the end."""
    with subprocess.Popen(
        [sys.executable, "-c", _SERVE], env={**environment(settings), **variables}, stdout=subprocess.PIPE, text=True
    ) as process:
        server = Served(process, settings)
        try:
            yield server
        finally:
            process.kill()
            wait_until(lambda: server.family() == [], "the end of all processes")
