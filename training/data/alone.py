"""One process at a time: those of `torchrun`, or pods that share a volume, ask for the same download together."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """No other process is inside for the same folder meanwhile; the next one then finds what this one put there.

    Where beside the folder nothing can be written, nobody downloads either, and nothing is waited for; nor on a file
    system without locks, which filelock calls NotImplementedError.
    """
    lock = FileLock(folder.with_name(f".{folder.name}.lock"))
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except (OSError, NotImplementedError):
        yield
        return
    try:
        yield
    finally:
        lock.release()
