"""The keys that are valid now: those of the file, read again when it changes."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from pgn.errors import KeyRefused, SetupError
from pgn.gateway.keys import Key, hash_key, read_keys
from pgn.gateway.rates import Allowance

_LONGEST_KEY: Final = 512

_log = logging.getLogger(__name__)


class KeyRing:
    """Follows the file of API keys. A file that cannot be read leaves the keys as they were.

    Args:
        path: The file.
        poll_s: Seconds between two looks at it; without requests nobody looks.
        num_workers: Processes that each key's limits are divided among.
        on_change: Told after each change of the file: the number of keys, or the fault that kept the old ones.

    Raises:
        SetupError: The file cannot be read now.
    """

    def __init__(
        self, path: Path, *, poll_s: float, num_workers: int, on_change: Callable[[int | SetupError], None]
    ) -> None:
        self._path = path
        self._poll_s = poll_s
        self._num_workers = num_workers
        self._on_change = on_change
        self._seen = _state(path)  # before reading: a change in between is seen at the next look
        self._next_look = time.monotonic() + poll_s
        self._keys: Mapping[str, Key] = {}
        self._allowances: dict[str, Allowance] = {}
        self._take(read_keys(path))

    def find(self, secret: str) -> tuple[Key, Allowance]:
        """The key that is `secret`, and what it may still ask.

        The time that the look-up takes tells nothing: it compares hashes, and nobody can aim a hash.

        Raises:
            KeyRefused: There is none, or it has expired.
        """
        self._look()
        key = self._keys.get(hash_key(secret)) if len(secret) <= _LONGEST_KEY else None
        if key is None:
            raise KeyRefused("the API key is not known")
        if key.has_expired():
            raise KeyRefused(f"the API key {key.name!r} expired at {key.expires:%Y-%m-%d %H:%M} UTC")
        return key, self._allowances[key.name]

    def _look(self) -> None:
        now = time.monotonic()
        if now < self._next_look:
            return
        self._next_look = now + self._poll_s
        state = _state(self._path)
        if state == self._seen:
            return
        self._seen = state
        try:
            self._take(read_keys(self._path))
        except SetupError as error:
            _log.error("keys_not_reloaded", extra={"fault": error.message})  # once for each change of the file
            self._on_change(error)
        else:
            _log.info("keys_reloaded", extra={"keys": len(self._keys)})
            self._on_change(len(self._keys))

    def _take(self, keys: Mapping[str, Key]) -> None:
        before = {key.name: key for key in self._keys.values()}
        # A key whose limits are the same keeps what it has used up: reloading refills nobody.
        self._allowances = {
            key.name: self._allowances[key.name]
            if key.name in before and _limits(before[key.name]) == _limits(key)
            else Allowance(key.name, *_limits(key), num_workers=self._num_workers)
            for key in keys.values()
        }
        self._keys = keys


def _limits(key: Key) -> tuple[float | None, int | None, int | None]:
    return key.rate, key.burst, key.concurrency


def _state(path: Path) -> tuple[int, int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ino, status.st_size
