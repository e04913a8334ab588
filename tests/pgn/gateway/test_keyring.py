"""The keys that are valid follow their file."""

from __future__ import annotations

from pathlib import Path

import pytest

from pgn.errors import KeyRefused, SetupError, TooManyRequests
from pgn.gateway.keyring import KeyRing
from pgn.gateway.keys import hash_key, new_key, revoke_key


class Ring:
    """A ring that looks at its file with every request, and what it has told."""

    def __init__(self, file: Path, poll_s: float = 0) -> None:
        self.told: list[int | SetupError] = []
        self.ring = KeyRing(file, poll_s=poll_s, num_workers=1, on_change=self.told.append)

    def knows(self, secret: str) -> bool:
        try:
            self.ring.find(secret)
        except KeyRefused:
            return False
        return True


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Where the file of keys is."""
    return tmp_path / "keys.toml"


def test_a_key_is_known_by_its_whole_text(file: Path) -> None:
    """Neither its hash nor a part of it opens anything."""
    key = new_key(file, "team-a")
    ring = Ring(file)
    assert ring.ring.find(key)[0].name == "team-a"
    for other in (hash_key(key), key[:-1], key + "x", key.upper(), "x" * 100_000, "ü"):
        assert not ring.knows(other)


def test_changes_are_followed(file: Path) -> None:
    """A new key works and a revoked one does not, without a restart."""
    old = new_key(file, "old")
    ring = Ring(file)
    new = new_key(file, "new")
    assert ring.knows(new)
    revoke_key(file, "old")
    assert not ring.knows(old)
    assert ring.told == [2, 1]


@pytest.mark.parametrize("broken", ["[[key]", None])
def test_a_broken_file_leaves_the_keys_as_they_were(file: Path, broken: str | None) -> None:
    """A slip of the editor locks nobody out; it is told once, not with every request."""
    key = new_key(file, "team-a")
    good = file.read_text()
    ring = Ring(file)
    file.unlink() if broken is None else file.write_text(broken)
    assert ring.knows(key)
    assert ring.knows(key)
    (fault,) = ring.told
    assert isinstance(fault, SetupError)
    file.write_text(good)
    assert ring.knows(key)
    assert ring.told[1:] == [1]


def test_between_two_looks_the_file_is_left_alone(file: Path) -> None:
    """Looking costs a system call."""
    new_key(file, "team-a")
    ring = Ring(file, poll_s=3600)
    assert not ring.knows(new_key(file, "new"))


def test_an_expired_key_is_refused_with_its_moment(file: Path) -> None:
    """Its owner learns what to ask for."""
    from datetime import datetime

    key = new_key(file, "team-a", expires=datetime(2020, 1, 31, 12))
    with pytest.raises(KeyRefused, match="'team-a' expired at 2020-01-31 12:00 UTC"):
        Ring(file).ring.find(key)


def test_reloading_refills_nobody(file: Path) -> None:
    """Limits that stay the same keep what was used up; changed ones begin anew."""
    key = new_key(file, "team-a", rate=0.001, burst=1)
    ring = Ring(file).ring
    with ring.find(key)[1]:
        pass
    new_key(file, "another")
    with pytest.raises(TooManyRequests), ring.find(key)[1]:
        pass
    file.write_text(file.read_text().replace("burst = 1", "burst = 2"))
    with ring.find(key)[1]:
        pass


def test_a_file_that_cannot_be_read_is_met_at_start(file: Path) -> None:
    """There are no old keys to go on with."""
    with pytest.raises(SetupError, match="cannot be read"):
        Ring(file)
