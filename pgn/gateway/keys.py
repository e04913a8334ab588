"""API keys: a TOML file of names, hashes and what each key may do, and the principal that a request acts as.

    [[key]]
    name = "team-a"
    sha256 = "9f86d0…"              # of the key; the key itself is nowhere
    datasets = ["digits", "team-a-*"]

A key is 256 random bits, so one round of SHA-256 is enough: there is nothing to guess. See docs/keys.md.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import secrets
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from typing_extensions import Self

from pgn.errors import Forbidden, SetupError, UsageError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ANONYMOUS: Final = "anonymous"
"""The name of whoever needs no key."""

_PREFIX: Final = "pgn_"  # so that scanners for leaked secrets can know one
_LIMITS: Final = ("rate", "burst", "concurrency")
_NAME: Final = r"[a-z0-9][a-z0-9._-]{0,62}"
_START: Final = re.compile(r"(?m)^(?=[ \t]*\[\[[ \t]*key[ \t]*\]\])")


@dataclass(frozen=True)
class Principal:
    """Who asks, and what they may.

    Attributes:
        name: Of the key, for logs and metrics.
        datasets: Patterns of the data sets that may be asked; `*` stands for any letters.
        is_admin: May change what is served, within `datasets`.
    """

    name: str
    datasets: tuple[str, ...] = ("*",)
    is_admin: bool = False

    def may_ask(self, dataset: str) -> bool:
        """Whether this data set may be asked, and seen in lists."""
        return any(pattern == "*" or fnmatchcase(dataset, pattern) for pattern in self.datasets)

    def require(self, dataset: str) -> None:
        """Raise Forbidden if `dataset` may not be asked. To be called before it is looked up: the answer is the same
        for one that exists and one that does not.
        """
        if not self.may_ask(dataset):
            raise Forbidden(f"the key {self.name!r} may not ask data set {dataset[:80]!r}")

    def require_admin(self, dataset: str | None = None) -> None:
        """Raise Forbidden if this is no administrator, or not one of `dataset`."""
        if not self.is_admin:
            raise Forbidden(
                f"the key {self.name!r} may not change what is served",
                hint="use a key with admin = true (docs/keys.md)",
            )
        if dataset is not None:
            self.require(dataset)


class Key(BaseModel):
    """One key of the file, without the key."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=rf"^{_NAME}$")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    datasets: tuple[str, ...] = Field(("*",), min_length=1)
    admin: bool = False
    rate: float | None = Field(None, gt=0, description="requests a second, in the long run")
    burst: int | None = Field(None, ge=1, description="requests at once after a pause; by default one second's")
    concurrency: int | None = Field(None, ge=1, description="requests in flight")
    expires: datetime | None = None

    @field_validator("name")
    @classmethod
    def _is_not_reserved(cls, name: str) -> str:
        if name == ANONYMOUS:
            raise ValueError(f"{ANONYMOUS!r} stands for requests without a key")
        return name

    @field_validator("expires")
    @classmethod
    def _in_utc(cls, expires: datetime | None) -> datetime | None:
        return expires.replace(tzinfo=timezone.utc) if expires and expires.tzinfo is None else expires

    @model_validator(mode="after")
    def _burst_has_a_rate(self) -> Self:
        if self.burst is not None and self.rate is None:
            raise ValueError("burst without rate limits nothing")
        return self

    @property
    def principal(self) -> Principal:
        """Who asks with this key."""
        return Principal(self.name, self.datasets, self.admin)

    def summary(self) -> str:
        """What it may, in one line."""
        limits = (f"{field} {value:g}" for field in _LIMITS if (value := getattr(self, field)) is not None)
        until = f"{self.expires:%Y-%m-%d %H:%M} UTC" if self.expires else ""
        when = "expired" if self.has_expired() else "until"
        parts = [
            self.name,
            ", ".join(self.datasets),
            "admin" if self.admin else "",
            *limits,
            until and f"{when} {until}",
        ]
        return "  ".join(part for part in parts if part)

    def has_expired(self) -> bool:
        """Whether its time is over."""
        return self.expires is not None and datetime.now(timezone.utc) >= self.expires


class _File(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    key: tuple[Key, ...] = ()

    @model_validator(mode="after")
    def _no_twins(self) -> Self:
        for what in ("name", "sha256"):
            values = [getattr(key, what) for key in self.key]
            twice = sorted({value for value in values if values.count(value) > 1})
            if twice:
                raise ValueError(f"{what} {', '.join(twice)} is there twice")
        return self


def hash_key(key: str) -> str:
    """What the file has of a key."""
    return hashlib.sha256(key.encode()).hexdigest()


def read_keys(path: Path) -> Mapping[str, Key]:
    """The keys of the file at `path` by hash; raises SetupError naming every fault."""
    try:
        return {key.sha256: key for key in _parse(path.read_text("utf-8"), path)}
    except (OSError, UnicodeDecodeError) as error:
        fault = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise SetupError(
            f"the API keys {path} cannot be read: {fault}", hint="`pgn key new NAME --file F` makes the file"
        ) from error


def _parse(text: str, path: Path) -> tuple[Key, ...]:
    try:
        return _File.model_validate(tomllib.loads(text)).key
    except tomllib.TOMLDecodeError as error:
        raise SetupError(f"{path} is no TOML: {error}", hint="docs/keys.md describes the file") from error
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, f['loc'])) or 'file'}: {f['msg']}" for f in error.errors())
        raise SetupError(f"{path}: {faults}", hint="docs/keys.md describes the file") from error


def new_key(path: Path, name: str, **fields: object) -> str:
    """Make a key, append its entry to the file at `path`, and return it: it is written down nowhere.

    Args:
        path: The file; made, for its owner alone, if it is not there.
        name: Of the key.
        fields: Those of `Key` that are not None.

    Raises:
        UsageError: The name is taken.
        SetupError: A field is wrong, or the file cannot be read or written.
    """
    key = _PREFIX + secrets.token_urlsafe(32)
    values = {"name": name, "sha256": hash_key(key), **{k: v for k, v in fields.items() if v is not None}}
    entry = "[[key]]\n" + "".join(f"{field} = {_toml(value)}\n" for field, value in values.items())
    with _changing(path) as text:
        if any(old.name == name for old in _parse(text, path)):
            raise UsageError(f"{path} has a key {name!r} already", hint="revoke it first, or take another name")
        changed = f"{text.rstrip()}\n\n{entry}" if text.strip() else entry
        _parse(changed, path)
        _write(path, changed)
    return key


def revoke_key(path: Path, name: str) -> None:
    """Take a key's entry out of the file; the rest of it stays as it is.

    Raises:
        UsageError: There is no such key.
        SetupError: The file cannot be read or written, or is not laid out as `[[key]]` blocks.
    """
    with _changing(path) as text:
        keys = _parse(text, path)
        left = tuple(key for key in keys if key.name != name)
        if len(left) == len(keys):
            raise UsageError(f"{path} has no key {name!r}", hint="`pgn key list` names them")
        blocks = _START.split(text)
        changed = "".join(block for block in blocks if not _holds(block, name))
        if _parse(changed, path) != left:
            raise SetupError(f"the entry of {name!r} in {path} is not a block of its own", hint="take it out by hand")
        _write(path, changed)


def _holds(block: str, name: str) -> bool:
    try:
        return [key.get("name") for key in tomllib.loads(block).get("key", [])] == [name]
    except tomllib.TOMLDecodeError:  # the blocks are parsed together afterwards
        return False


def _toml(value: object) -> str:
    # TOML's strings, lists, numbers and booleans are written like JSON's; its moments bare.
    return value.isoformat() if isinstance(value, datetime) else json.dumps(value)


@contextmanager
def _changing(path: Path) -> Iterator[str]:
    """The file's text, while nobody else changes it."""
    try:
        with path.with_name(f".{path.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield path.read_text("utf-8") if path.exists() else ""
    except (OSError, UnicodeDecodeError) as error:
        raise SetupError(f"the API keys {path} cannot be changed: {error}") from error


def _write(path: Path, text: str) -> None:
    scratch = path.with_name(f".{path.name}.new")  # under the lock there is one writer
    scratch.unlink(missing_ok=True)
    with os.fdopen(os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    scratch.replace(path)
