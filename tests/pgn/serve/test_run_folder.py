"""A run's folder is gone when the run is, at the latest when the next one starts."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pgn.errors import SetupError
from pgn.serve.run_folder import RunFolder, remove_stale

_KILLED = """
import os
from pgn.serve.run_folder import RunFolder
print(RunFolder().path, flush=True)
os.kill(os.getpid(), 9)
"""
_HOLDER = """
import os, signal, subprocess
from pgn.serve.run_folder import RunFolder
run = RunFolder()
child = subprocess.Popen(['sleep', '600'], pass_fds=[run.lock], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
print(run.path, child.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture(autouse=True)
def temporary_folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A short one, as sockets live in it, and away from servers that run beside the tests."""
    with tempfile.TemporaryDirectory(prefix="t-") as folder:
        monkeypatch.setattr(tempfile, "tempdir", folder)
        monkeypatch.setenv("TMPDIR", folder)
        yield Path(folder)


def start(script: str) -> list[str]:
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False).stdout.split()


def test_a_folder_is_removed_with_its_run() -> None:
    """Nothing is left of a run that ended well."""
    run = RunFolder()
    run.fresh("tmp")
    assert run.path.is_dir()
    run.remove()
    assert not run.path.exists()


def test_the_next_run_removes_what_a_killed_one_left() -> None:
    """A killed process cannot tidy up."""
    (left,) = start(_KILLED)
    assert Path(left).is_dir()
    RunFolder().remove()
    assert not Path(left).exists()


def test_a_run_that_lives_is_left_alone() -> None:
    """Two servers may share a machine."""
    run = RunFolder()
    remove_stale()
    assert run.path.is_dir()
    run.remove()


def test_a_folder_lives_as_long_as_a_child_that_uses_it() -> None:
    """The JVM needs a few seconds to end after its parent was killed."""
    path, child = start(_HOLDER)
    remove_stale()
    assert Path(path).is_dir()
    os.kill(int(child), 9)


def test_a_fresh_folder_is_empty() -> None:
    """TorchServe never tidies its temporary folder."""
    run = RunFolder()
    (run.fresh("tmp") / "old").touch()
    assert list(run.fresh("tmp").iterdir()) == []
    run.remove()


def test_a_temporary_folder_with_too_long_a_path_is_named(
    temporary_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Workers listen on Unix sockets below it, whose paths are short by law."""
    long = temporary_folder / ("x" * 90)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    with pytest.raises(SetupError, match="TMPDIR"):
        RunFolder()
    assert list(long.iterdir()) == []
