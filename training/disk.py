"""A failed write as one clear line."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pgn.errors import DiskFull, SetupError


@contextmanager
def clear_disk_errors(path: Path) -> Iterator[None]:
    """Writes below `path`: a full disk becomes DiskFull, any other failure a SetupError naming the path."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFull(f"no room left to write into {path}") from error
        raise SetupError(f"{path} cannot be written: {error.strerror}", hint="choose another folder") from error
