"""The bank: one module for every bundle that the index names, exchanged while it serves.

Stage pgn holds generators (the prompt bank), stage vit holds heads; both come from the same bundles by this loader.
What is served is a `Snapshot`, which never changes: a batch takes one and is answered from it alone. A thread looks at
the index, loads what is new off the request path, and puts the next snapshot in the old one's place. A bundle that does
not verify is kept with its reason and blocks nobody else.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Generic, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from pgn.bundle import Bundle, Manifest
from pgn.errors import BundleInvalid, DatasetUnavailable, NotReady, PgnError, one_line
from pgn.index import INDEX_FILE, Index, read_index
from pgn.message import Target
from pgn.stages.metrics import StageMetrics
from pgn.store.local import LocalStore

M = TypeVar("M", bound=nn.Module)

Key = tuple[str, str]
"""Data set and digest: a version."""

FIRST_PAUSE_S: Final = 1.0  # before a refused bundle whose file has not changed is tried again; then ever longer
LONGEST_PAUSE_S: Final = 60.0

_Stamp = tuple[int, int, int]  # of a file: replaced or written to, it has another

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Held(Generic[M]):
    """A served version.

    Attributes:
        manifest: What its bundle says of itself.
        digest: Of the bundle.
        module: What was made of it, on the stage's device.
        profile: (N) mean mixture over its training images, or None without a library.
        bytes: Of the module's tensors.
        since: When it was loaded, by the bank's clock.
    """

    manifest: Manifest
    digest: str
    module: M
    profile: NDArray[np.float32] | None
    bytes: int
    since: float

    @property
    def version(self) -> str:
        """The digest's first 16 hex digits, as clients see it."""
        return self.digest[:16]


@dataclass(frozen=True)
class Refused:
    """A version that the index names and that is not held.

    Attributes:
        error: Why.
        stamp: Of the file that was refused; None if there was none.
        pause_s: For how long it is left alone, unless its file changes.
        until: The end of that, by the bank's clock.
    """

    error: PgnError
    stamp: _Stamp | None
    pause_s: float
    until: float


@dataclass(frozen=True)
class Snapshot(Generic[M]):
    """What is served at one moment: every version of `index`, held or refused, and those that left it just now."""

    index: Index
    held: Mapping[Key, Held[M]] = field(default_factory=dict)
    refused: Mapping[Key, Refused] = field(default_factory=dict)

    def find(self, target: Target) -> Held[M]:
        """What answers for `target`: the digest it names, or else the version with the largest share.

        Raises:
            UnknownDataset: The index has no such data set.
            DatasetUnavailable: Its bundle was refused; the message has the reason.
            NotReady: The digest is of a version that the index does not name, or not any more.
        """
        digest = target.digest or self.index.main_version(target.dataset)
        key = (target.dataset, digest)
        if key in self.held:
            return self.held[key]
        if key in self.refused:
            reason = self.refused[key].error.message
            raise DatasetUnavailable(f"data set {target.dataset!r} is not available: {reason}")
        raise NotReady(f"version {digest[:16]} of data set {target.dataset!r} is not loaded")


class Bank(Generic[M]):
    """Every bundle of the index, loaded; `follow` keeps it so.

    Args:
        store: Where the bundles lie, and the index.
        backbone: Digest of the frozen ViT that this process has loaded; bundles of another are refused.
        build: Makes the module of a verified bundle; may raise.
        device: Where the modules live.
        grace_s: For how long a version that left the index is still held: requests on their way name it.
        metrics: Takes what is served, and every load.
        clock: Seconds that only grow.

    Attributes:
        snapshot: What is served now. Take it once for all that has to fit together.

    Raises:
        IndexInvalid: The index cannot be read.
    """

    def __init__(
        self,
        store: LocalStore,
        backbone: str,
        build: Callable[[Bundle], M],
        device: torch.device | str = "cpu",
        *,
        grace_s: float = 0.0,
        metrics: StageMetrics | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._backbone = backbone
        self._build = build
        self._device = torch.device(device)
        self._grace_s = grace_s
        self._metrics = metrics
        self._clock = clock
        self._ending = threading.Event()
        self._thread: threading.Thread | None = None
        self._index_stamp: _Stamp | None = None
        self._leaving: dict[Key, float] = {}  # versions that left the index, and when they go
        self._told = ""
        self.snapshot: Snapshot[M] = Snapshot(Index(revision=0, backbone=backbone))
        self.refresh()

    def follow(self, poll_s: float) -> None:
        """From now on look every `poll_s` seconds at the index, in a thread of its own, until `close`."""
        self._thread = threading.Thread(target=self._run, args=(poll_s,), name="follow-index", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread; what is held goes on being served."""
        self._ending.set()
        if self._thread is not None:
            self._thread.join()

    def age_s(self, held: Held[M]) -> float:
        """Seconds since that version was loaded."""
        return self._clock() - held.since

    def _run(self, poll_s: float) -> None:
        while not self._ending.wait(poll_s):
            try:
                self.refresh()
                self._told = ""
            except Exception as error:  # whatever it is, the old snapshot is served, and the next look may be luckier
                if self._told != one_line(error):  # once, not at every look
                    self._told = one_line(error)
                    is_foreseen = isinstance(error, PgnError)
                    _log.error("index not followed: %s", self._told, exc_info=None if is_foreseen else error)

    def refresh(self) -> None:
        """Serve what the index says now; nothing happens if neither it nor a refused file has changed.

        Raises:
            IndexInvalid: The index cannot be read; what was served goes on being served.
        """
        stamp = _stamp(self._store.root / INDEX_FILE)  # before reading: a change in between is seen at the next look
        if stamp != self._index_stamp or stamp is None:
            index = read_index(self._store.root)
            self._index_stamp = stamp
            self._serve(index, retry_all=True)
        elif self._is_anything_due():
            self._serve(self.snapshot.index, retry_all=False)

    def _is_anything_due(self) -> bool:
        now = self._clock()
        return any(now >= end for end in self._leaving.values()) or any(map(self._is_due, self.snapshot.refused))

    def _is_due(self, key: Key) -> bool:
        refused = self.snapshot.refused[key]
        return self._clock() >= refused.until or _stamp(self._store.bundle_path(*key)) != refused.stamp

    def _serve(self, index: Index, *, retry_all: bool) -> None:
        """Load what `index` names and is not held, then put the next snapshot in place, whole."""
        old = self.snapshot
        if index.backbone not in (self._backbone, old.index.backbone):
            _log.error("the index names another backbone, %s…; restart to serve it", index.backbone[:16])
        wanted = [(name, version.digest) for name, entry in index.datasets.items() for version in entry.versions]
        loaded: dict[Key, Held[M]] = {}
        refused: dict[Key, Refused] = {}
        for key in wanted:
            if key in old.held:
                continue
            if self._ending.is_set():
                return
            if key in old.refused and not retry_all and not self._is_due(key):
                refused[key] = old.refused[key]
                continue
            began = time.perf_counter()
            result = self._load(key)
            if self._metrics:
                outcome = "ok" if isinstance(result, Held) else result.error.code
                self._metrics.loaded(outcome, time.perf_counter() - began)
            if isinstance(result, Held):
                loaded[key] = result
            else:
                refused[key] = result
        now = self._clock()
        gone = old.held.keys() - set(wanted)
        self._leaving = {key: self._leaving.get(key, now + self._grace_s) for key in gone}
        self._leaving = {key: end for key, end in self._leaving.items() if now < end}
        stays = {key: held for key, held in old.held.items() if key not in gone or key in self._leaving}
        self.snapshot = Snapshot(index, {**stays, **loaded}, refused)
        if self._metrics:
            self._metrics.serves(self.snapshot, "host" if self._device.type == "cpu" else "device")
        if index.revision != old.index.revision or loaded:
            _log.info(
                "index served",
                extra={"revision": index.revision, "loaded": len(loaded), "refused": len(refused), "left": len(gone)},
            )

    def _load(self, key: Key) -> Held[M] | Refused:
        dataset, digest = key
        stamp = _stamp(self._store.bundle_path(dataset, digest))
        try:
            bundle = self._store.read(dataset, digest, backbone=self._backbone)
            module = self._build(bundle).to(self._device)
        except PgnError as error:
            return self._refuse(key, stamp, error)
        except Exception as error:  # whatever a file holds, the other bundles are served
            _log.exception("bundle not loaded: data set %s, version %s", dataset, digest[:16])
            return self._refuse(key, stamp, BundleInvalid(f"it cannot be loaded: {one_line(error)}"))
        profile = bundle.tensors.get("profile.mixture")
        return Held(
            manifest=bundle.manifest,
            digest=digest,
            module=module,
            profile=None if profile is None else profile.copy(),
            bytes=sum(tensor.nbytes for tensor in module.state_dict().values()),
            since=self._clock(),
        )

    def _refuse(self, key: Key, stamp: _Stamp | None, error: PgnError) -> Refused:
        before = self.snapshot.refused.get(key)
        if before is None or before.error.message != error.message:
            _log.warning("bundle refused: data set %s, version %s: %s", key[0], key[1][:16], error.message)
        is_same_file = before is not None and before.stamp == stamp
        pause_s = min(2 * before.pause_s, LONGEST_PAUSE_S) if before and is_same_file else FIRST_PAUSE_S
        return Refused(error, stamp, pause_s, self._clock() + pause_s)


def _stamp(path: Path) -> _Stamp | None:
    """What changes when the file is replaced or written to; None if it is not there."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ino, status.st_size
