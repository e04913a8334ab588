"""A child process in a session of its own that leaves nothing behind, however its parent ends."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Final

_PR_SET_PDEATHSIG: Final = 1
_libc = ctypes.CDLL(None, use_errno=True)  # loaded here: between fork and exec little is safe


class Child:
    """A running program with everything it starts.

    It gets SIGTERM when this process dies. Linux sends that when the *thread* that started it ends: start children
    from the main thread.

    Args:
        command: Program and arguments.
        env: Its whole environment.
        cwd: Its working folder; None leaves this process's.
        output: Where its output goes; None leaves this process's.
        keep: File descriptors that it inherits.
    """

    def __init__(
        self,
        command: Sequence[str | Path],
        *,
        env: Mapping[str, str],
        cwd: Path | None = None,
        output: IO[bytes] | None = None,
        keep: Sequence[int] = (),
    ) -> None:
        self._process = subprocess.Popen(
            [str(part) for part in command],
            env=dict(env),
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=None if output is None else subprocess.STDOUT,
            pass_fds=keep,
            start_new_session=True,  # its own group: Ctrl-C in a terminal is ours to pass on
            preexec_fn=_end_with(os.getpid()),
        )

    @property
    def pid(self) -> int:
        """Process id, and id of its group."""
        return self._process.pid

    def exit_status(self) -> int | None:
        """None while it runs; minus the signal's number if a signal ended it."""
        return self._process.poll()

    def stop(self, grace_s: float) -> None:
        """Ask it to end, wait for at most `grace_s`, then kill what is left of its group."""
        if self.exit_status() is None:
            self._process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(grace_s)
        self.kill_group()

    def kill_group(self) -> None:
        """Kill it and all that it started."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()


def _end_with(parent: int) -> Callable[[], None]:
    def prepare() -> None:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it died before we asked
            os._exit(1)

    return prepare
