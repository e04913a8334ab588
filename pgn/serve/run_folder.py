"""The folder of one run of TorchServe: archives, sockets, unpacked models, log. Gone when the run is."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from pathlib import Path
from typing import Final

from pgn.errors import SetupError

_PREFIX: Final = "pgn-serve-"
_LOCK: Final = "lock"
_LONGEST_SOCKET: Final = 100  # a Unix socket's path has at most 107 bytes; the worker's is <run>/tmp/.ts.sock.9000


class RunFolder:
    """A new folder for a run, locked as long as this process or a child that got `lock` lives.

    Attributes:
        path: The folder.
        lock: File descriptor to hand to children.
    """

    def __init__(self) -> None:
        remove_stale()
        self.path = Path(tempfile.mkdtemp(prefix=_PREFIX))
        # Locked before it has the name that others look for, so nobody takes a folder in the making for a stale one.
        self.lock = os.open(self.path / f".{_LOCK}", os.O_CREAT | os.O_RDWR, 0o600)
        fcntl.flock(self.lock, fcntl.LOCK_EX)
        (self.path / f".{_LOCK}").rename(self.path / _LOCK)
        if len(str(self.path / "tmp" / ".ts.sock.65535").encode()) > _LONGEST_SOCKET:
            self.remove()
            raise SetupError(
                f"the temporary folder {self.path.parent} has too long a path", hint="set TMPDIR to another"
            )

    def fresh(self, name: str, mode: int = 0o700) -> Path:
        """An empty sub-folder; what was there before is gone."""
        folder = self.path / name
        _remove_tree(folder)
        folder.mkdir(mode)
        return folder

    def remove(self) -> None:
        """Delete the folder and let go of the lock."""
        _remove_tree(self.path)
        os.close(self.lock)


def remove_stale() -> None:
    """Delete run folders of this user whose processes are all gone; a killed run cannot do it itself."""
    for lock in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*/{_LOCK}"):
        try:
            if lock.stat().st_uid != os.getuid():
                continue
            with lock.open("r+") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _remove_tree(lock.parent)
        except OSError:  # in use, or another process was quicker
            continue


def _remove_tree(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
