"""Metrics that several processes write and any of them shows: one folder, by prometheus-client's multiprocess mode.

A process takes a slot of its role (`gateway-0`, `stage-pgn-0`, ...) by locking a file, and keeps its values in that
slot's memory-mapped files. The lock ends with the process, however it ended, and is seen from other containers too,
where a process id means nothing. Who starts next takes the slot over: counters and histograms go on where they were,
gauges begin anew, and the number of files is that of the processes, not of their deaths.
"""

from __future__ import annotations

import errno
import fcntl
import itertools
import math
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from prometheus_client import CollectorRegistry, Metric, generate_latest, values
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from pgn.errors import DiskFull, SetupError

EXPOSITION_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
"""The content type of `exposition`."""

_GAUGES: Final = ("gauge_livemax", "gauge_livemin", "gauge_livemostrecent", "gauge_livesum")
_KINDS: Final = ("counter", "histogram", *_GAUGES)
# Room is taken at once: writing to a mapped file on a full disk ends the process. Some 4,000 series of each kind.
_FILE_BYTES: Final = 2**20


class _Folder(Collector):
    """What all processes have written."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def collect(self) -> Iterable[Metric]:
        alive = {lock.stem for lock in self._path.glob("*.lock") if not _is_free(lock)}
        files = [file for kind in _KINDS for file in self._path.glob(f"{kind}_*.db")]
        wanted = (f for f in files if not f.name.startswith("gauge_") or f.stem.rpartition("_")[2] in alive)
        merged: Iterable[Metric] = MultiProcessCollector.merge([str(file) for file in wanted])  # type: ignore[no-untyped-call]
        return merged


_slot: tuple[Path, int] | None = None  # of this process: the folder, and the descriptor whose lock holds it


def share(folder: Path, role: str) -> None:
    """From now on every metric that this process makes is kept in `folder`; the second call changes nothing.

    Args:
        folder: Made if it is not there. All processes of one service have the same, on a local disk.
        role: What the process does, such as "gateway"; without underscores.

    Raises:
        DiskFull: There is no room.
        SetupError: The folder cannot be written.
    """
    global _slot
    if _slot is not None:
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        name, lock = _take_slot(folder, role)
        for kind in _KINDS:
            _make_room(folder / f"{kind}_{name}.db", anew=kind in _GAUGES)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise DiskFull(f"no room for metrics in {folder}") from error
        raise SetupError(
            f"metrics cannot be written to {folder}: {error.strerror}", hint="set PGN_METRICS_DIR to another folder"
        ) from error
    _slot = folder, lock
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(folder)  # where the library looks when it opens a file
    values.ValueClass = values.MultiProcessValue(process_identifier=lambda: name)  # type: ignore[no-untyped-call]


def exposition(registry: CollectorRegistry) -> bytes:
    """The values of all processes that share with this one in Prometheus' text format, or else those of `registry`."""
    return generate_latest(_Shown(registry if _slot is None else _Folder(_slot[0])))


class _Shown:
    """What `generate_latest` reads: a source without the gauges that were set to NaN, as for data sets that are gone.

    A series cannot be taken out of a shared file.
    """

    def __init__(self, source: CollectorRegistry | _Folder) -> None:
        self._source = source

    def collect(self) -> Iterator[Metric]:
        for metric in self._source.collect():
            metric.samples = [sample for sample in metric.samples if not math.isnan(sample.value)]
            yield metric


def _take_slot(folder: Path, role: str) -> tuple[str, int]:
    for number in itertools.count():
        lock = os.open(folder / f"{role}-{number}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
        else:
            return f"{role}-{number}", lock
    raise AssertionError("unreachable")


def _is_free(lock: Path) -> bool:
    """Whether nobody holds the lock. A process that starts this very moment may take the next one for it: no harm."""
    file = os.open(lock, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    else:
        return True
    finally:
        os.close(file)


def _make_room(path: Path, *, anew: bool) -> None:
    if anew:
        path.unlink(missing_ok=True)
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.posix_fallocate(file, 0, _FILE_BYTES)
    finally:
        os.close(file)
