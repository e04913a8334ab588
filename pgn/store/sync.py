"""Making the folder say what the bucket says, once or for ever.

The folder's readers see whole states only: missing bundles are fetched and verified first, then the index is replaced.
A version that cannot be had leaves its data set as it was and holds up no other. How it went stands in `sync.json`.

The folder's revision is the bucket's where the folder is complete. Where something is missing it counts up from its
own, and stays below the bucket's: each revision of the bucket changes one data set.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import random
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pgn.bundle import write_atomically
from pgn.errors import (
    ArtefactError,
    BundleCorrupt,
    BundleInvalid,
    IndexInvalid,
    PgnError,
    SetupError,
    StoreUnavailable,
    one_line,
)
from pgn.index import INDEX_FILE, Entry, Index, change_index, read_index
from pgn.settings import Settings
from pgn.store.backbones import fetch_backbone
from pgn.store.incoming import full_disk_is_told, receive
from pgn.store.local import SYNC_FILE, LocalStore, check_backbone
from pgn.store.remote import SeenIndex, bundle_key, open_remote
from pgn.store.s3 import PARALLEL, Unchanged
from pgn.store.signing import open_verifier, signature_path

_LONGEST_PAUSE_S: Final = 30.0
_GIVE_UP_AFTER: Final = 3  # objects in a row that the bucket did not answer for
_log = logging.getLogger(__name__)


class Failure(BaseModel):
    """Why a version of the bucket's index is not in the folder."""

    model_config = ConfigDict(frozen=True)

    dataset: str
    digest: str
    code: str
    message: str


class SyncState(BaseModel):
    """What `sync.json` says: how the folder stands to the bucket. For metrics, probes and people.

    Attributes:
        remote: The address that this folder follows.
        wanted_revision: Of the bucket's index, when it was last read.
        served_revision: Of the bucket's index that the folder said completely, last.
        last_attempt: Seconds since 1970.
        last_success: When the folder last said all that the bucket says.
        error: Why the bucket could not be followed at all; None if it could.
        failures: What is missing of the wanted revision.
        errors: How often something failed since the process that syncs started, by code.
        dropped: Bundles that the index names no more, as "data set/digest", and when they may be deleted.
    """

    remote: str
    wanted_revision: int | None = None
    served_revision: int | None = None
    last_attempt: float = 0.0
    last_success: float | None = None
    error: str | None = None
    failures: tuple[Failure, ...] = ()
    errors: dict[str, int] = Field(default_factory=dict)
    dropped: dict[str, float] = Field(default_factory=dict)


def read_sync_state(store: Path) -> SyncState | None:
    """What `sync.json` in the store says; None if this folder follows no bucket."""
    try:
        return SyncState.model_validate_json((store / SYNC_FILE).read_bytes())
    except (OSError, ValidationError):
        return None


def sync_once(settings: Settings) -> SyncState:
    """Fetch what is missing, then say what the bucket says; what could not be had is in the state's `failures`.

    Raises:
        StoreUnavailable, StoreRefused: The bucket cannot be read.
        IndexInvalid: It has no index, or a damaged one.
        BackboneInvalid: The index's backbone cannot be had.
        SetupError: No bucket is named; the folder is not this bucket's, or cannot be written.
    """
    follower = Follower(settings)
    state = follower.step()
    if follower.error is not None:
        raise follower.error
    return state


def watch(settings: Settings, stop: threading.Event) -> None:
    """Follow the bucket until `stop` is set, whatever happens to it.

    Raises:
        SetupError: No bucket is named, or the folder is not this bucket's.
        StoreRefused: The settings for boto3 make no sense.
    """
    follower = Follower(settings)
    failed = 0
    while not stop.is_set():
        follower.step()
        failed = 0 if follower.error is None else failed + 1
        stop.wait(_pause_s(settings.sync_s, failed))


def _pause_s(base_s: float, failed: int) -> float:
    """Longer with every failure, up to half a minute; not quite regular, so that replicas do not ask in step."""
    longest = max(_LONGEST_PAUSE_S, base_s)
    return min(base_s * 2.0 ** min(failed, 10), longest) * random.uniform(0.75, 1.0)  # noqa: S311 - no secret


class Follower:
    """One folder that follows one bucket; remembers from step to step what was seen.

    Attributes:
        error: Why the last step could not follow the bucket; None if it could.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._store = LocalStore(settings.store)
        self._remote = open_remote(settings)
        self._verify = open_verifier(settings.public_key)
        self._state = _adopt(settings.store, str(settings.remote))
        self._seen = SeenIndex(None, None)
        self._is_done = False  # with what was seen
        self._try_again_at = 0.0  # on the monotonic clock
        self._tries = 0
        self._verified: set[tuple[str, str]] = set()
        self._failures: dict[tuple[str, str], PgnError] = {}
        self._told: set[str] = set()
        self.error: PgnError | None = None

    def step(self) -> SyncState:
        """One look at the bucket and what follows from it. Faults are counted, told once, and never raised."""
        state = self._state
        state.last_attempt = time.time()
        self.error = None
        try:
            with full_disk_is_told(self._store.root), self._alone():
                self._follow()
        except PgnError as error:
            self.error = error
        except OSError as error:
            self.error = SetupError(f"{self._store.root} cannot be written: {error.strerror}")
        if self.error is not None:
            self._count(self.error)
        elif self._is_done:
            state.last_success = state.last_attempt
        state.error = None if self.error is None else self.error.message
        self._tell()
        self._write_state()
        return state.model_copy(deep=True)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Inside, no other process syncs into the folder; what it did before counts."""
        root = self._store.root
        root.mkdir(parents=True, exist_ok=True)
        with (root / f".{SYNC_FILE}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            other = read_sync_state(root)
            if other is not None:
                self._state.dropped = other.dropped
            yield

    def _follow(self) -> None:
        try:
            seen = self._remote.see_index(unless=self._seen.etag)
        except Unchanged:
            pass
        else:
            if seen.index is None:
                raise self._remote.no_index()
            self._seen, self._is_done, self._tries, self._try_again_at = seen, False, 0, 0.0
        wanted = self._seen.index
        is_done = self._is_done and (self._store.root / INDEX_FILE).exists()
        if wanted is not None and not is_done and time.monotonic() >= self._try_again_at:
            self._apply(wanted)
        self._delete_dropped()

    def _apply(self, wanted: Index) -> None:
        self._state.wanted_revision = wanted.revision
        self._store.sweep()
        local = self._local_index(wanted)
        fetch_backbone(self._remote.bucket, wanted.backbone, self._store, lambda _: None)
        self._fetch_missing(wanted)
        self._note_dropped(local, wanted)
        change_index(self._store.root, lambda old: self._next(old, wanted), new=local)
        if self._failures:
            self._tries += 1
            self._try_again_at = time.monotonic() + _pause_s(self._settings.sync_s, self._tries)
        else:
            self._is_done = True
            self._state.served_revision = wanted.revision

    def _local_index(self, wanted: Index) -> Index:
        """What the folder says now; a damaged index is put away, as the bucket has the truth."""
        empty = Index(revision=0, backbone=wanted.backbone)
        path = self._store.root / INDEX_FILE
        if not path.exists():
            return empty
        try:
            local = read_index(self._store.root)
        except IndexInvalid as error:
            _log.warning("the folder's index is made anew: %s", error.message)
            path.unlink()
            return empty
        if local.backbone != wanted.backbone:
            raise SetupError(
                f"the bucket's index is for backbone {wanted.backbone[:16]}…, this folder's for {local.backbone[:16]}…",
                hint="servers that run keep their ViT; start new ones with an empty folder",
            )
        return local

    def _next(self, old: Index, wanted: Index) -> Index:
        datasets = {}
        for name, entry in wanted.datasets.items():
            usable = self._usable(name, entry, old.datasets.get(name))
            if usable is not None:
                datasets[name] = usable
        is_newer = not self._failures and wanted.revision > old.revision
        if datasets == old.datasets and not is_newer:
            return old
        revision = wanted.revision if is_newer else old.revision + 1
        return Index(revision=revision, backbone=wanted.backbone, datasets=datasets)

    def _usable(self, name: str, wanted: Entry, old: Entry | None) -> Entry | None:
        """The data set as wanted, or else as it was, or else those of its versions that are here."""
        here = {version.digest for version in wanted.versions if (name, version.digest) not in self._failures}
        if len(here) == len(wanted.versions):
            return wanted
        return old or wanted.only(here)

    def _fetch_missing(self, wanted: Index) -> None:
        """Fetch and verify what is served and not here; faults go to `_failures`."""
        self._verified &= {key for key in _served(wanted) if self._store.bundle_path(*key).is_file()}
        silent: list[StoreUnavailable] = []

        def obtain(key: tuple[str, str]) -> None:
            try:
                gone = tuple(silent)
                if len(gone) >= _GIVE_UP_AFTER:  # waiting for each of hundreds would take an hour
                    raise gone[-1]
                if not self._is_here(*key, backbone=wanted.backbone):
                    self._fetch(*key, wanted)
                    silent.clear()
            except StoreUnavailable as error:
                silent.append(error)
                self._failures[key] = error
            except PgnError as error:
                self._failures[key] = error
            except OSError:  # not the bundle's fault: the disk's
                raise
            except Exception as error:  # whatever a file holds, the others are served
                _log.exception("bundle not taken: data set %s, version %s", key[0], key[1][:16])
                self._failures[key] = BundleInvalid(f"{key[0]} {key[1][:16]} cannot be read: {one_line(error)}")
            else:
                self._verified.add(key)

        self._failures = {}
        with ThreadPoolExecutor(PARALLEL) as pool:
            list(pool.map(obtain, sorted(_served(wanted) - self._verified)))
        for error in self._failures.values():
            self._count(error)

    def _is_here(self, dataset: str, digest: str, *, backbone: str) -> bool:
        path = self._store.bundle_path(dataset, digest)
        try:
            self._store.read(dataset, digest, backbone=backbone)
            if self._verify is not None:
                signature = signature_path(path)
                self._verify(path, signature.read_bytes() if signature.is_file() else None)
        except ArtefactError:
            return False
        return True

    def _fetch(self, dataset: str, digest: str, wanted: Index) -> None:
        data, signature = self._remote.fetch(dataset, digest)
        found = hashlib.sha256(data).hexdigest()
        if found != digest:
            url = self._remote.bucket.url(bundle_key(dataset, digest))
            raise BundleCorrupt(f"{url} has SHA-256 {found[:16]}…, the index says {digest[:16]}…")
        incoming = receive(data, dataset=dataset, signature=signature, verify=self._verify)
        check_backbone(incoming.bundle, wanted)
        self._store.place(incoming)

    def _note_dropped(self, local: Index, wanted: Index) -> None:
        # Written down before the index drops them, so that a process that dies in between leaves nothing for ever.
        when = time.time() + 2 * self._settings.deadline_s
        dropped = {f"{dataset}/{digest}": when for dataset, digest in local.kept()} | self._state.dropped
        kept = {f"{dataset}/{digest}" for dataset, digest in wanted.kept()}
        self._state.dropped = {name: dropped[name] for name in sorted(dropped.keys() - kept)}
        self._write_state()

    def _delete_dropped(self) -> None:
        due = {name: name.split("/") for name, when in self._state.dropped.items() if time.time() >= when}
        if due:
            kept = read_index(self._store.root).kept()  # a failure can make the folder keep what the bucket does not
            gone = {(dataset, digest) for dataset, digest in due.values()} - kept
            self._store.delete(frozenset(gone))
            for dataset, digest in gone:
                del self._state.dropped[f"{dataset}/{digest}"]

    def _count(self, error: PgnError) -> None:
        self._state.errors[error.code] = self._state.errors.get(error.code, 0) + 1

    def _tell(self) -> None:
        """Log each cause once, as long as it lasts, and its end."""
        failures = {error.message for error in self._failures.values()}
        causes = failures if self.error is None else {self.error.message}
        for cause in sorted(causes - self._told):
            _log.warning("sync: %s", cause)
        if self._told and not causes:
            _log.warning("sync: the folder says again what %s says", self._state.remote)
        self._told = causes

    def _write_state(self) -> None:
        self._state.failures = tuple(
            Failure(dataset=dataset, digest=digest, code=error.code, message=error.message)
            for (dataset, digest), error in sorted(self._failures.items())
        )
        data = (self._state.model_dump_json(indent=2) + "\n").encode()
        try:
            self._store.root.mkdir(parents=True, exist_ok=True)
            write_atomically(self._store.root / SYNC_FILE, data)
        except OSError as error:  # the old one stays, and grows old: that is seen, too
            _log.debug("%s cannot be written: %s", self._store.root / SYNC_FILE, error.strerror)


def _served(index: Index) -> set[tuple[str, str]]:
    return {(name, version.digest) for name, entry in index.datasets.items() for version in entry.versions}


def _adopt(root: Path, remote: str) -> SyncState:
    """What is known of the folder; raises SetupError if its content is not this bucket's."""
    state = read_sync_state(root)
    if state is None and (root / INDEX_FILE).exists():
        raise SetupError(
            f"{root} has an index of its own, which following {remote} would replace",
            hint="name another folder with --store; `pgn publish --all` puts this one's bundles into the bucket",
        )
    if state is not None and state.remote != remote:
        raise SetupError(f"{root} follows {state.remote}, not {remote}", hint="name another folder with --store")
    return SyncState(remote=remote) if state is None else state.model_copy(update={"errors": {}})
