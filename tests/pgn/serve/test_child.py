"""A child ends with everything it started, however its parent ends."""

from __future__ import annotations

import os
import subprocess
import sys

import psutil
import pytest

from pgn.serve.child import Child
from tests.servers import wait_until

_STUBBORN = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(600)"
)
_FAMILY = "import subprocess, time; subprocess.Popen(['sleep', '600']); print('up', flush=True); time.sleep(600)"
_PARENT = """
import os, time
from pgn.serve.child import Child
print(Child(['sleep', '600'], env=dict(os.environ)).pid, flush=True)
time.sleep(600)
"""


def start(script: str) -> tuple[Child, list[psutil.Process]]:
    """A child that runs `script` up to its word, and its family."""
    reader, writer = os.pipe()
    with os.fdopen(reader, "rb") as heard, os.fdopen(writer, "wb") as output:
        child = Child([sys.executable, "-c", script], env=dict(os.environ), output=output)
        assert heard.read(2) == b"up"
    process = psutil.Process(child.pid)
    return child, [process, *process.children()]


def is_gone(process: psutil.Process) -> bool:
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


@pytest.mark.parametrize("script", [_STUBBORN, _FAMILY])
def test_stopping_leaves_nothing(script: str) -> None:
    """Neither one that ignores the request nor one that has children of its own."""
    child, family = start(script)
    child.stop(grace_s=0.1)
    assert child.exit_status() is not None
    wait_until(lambda: all(map(is_gone, family)), "the family's end")


def test_a_child_ends_with_a_killed_parent() -> None:
    """`kill -9` of `pgn serve` leaves no server behind."""
    with subprocess.Popen([sys.executable, "-c", _PARENT], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))
        parent.kill()
        wait_until(lambda: is_gone(child), "the child's end")


def test_a_child_has_a_session_of_its_own() -> None:
    """Ctrl-C in a terminal reaches the parent alone, which stops children in order."""
    child, _ = start(_FAMILY)
    assert os.getsid(child.pid) == child.pid
    child.stop(grace_s=5)
