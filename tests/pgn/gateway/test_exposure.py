"""Nobody opens the service to the world by an oversight."""

from __future__ import annotations

from pathlib import Path

import pytest

from pgn.errors import SetupError
from pgn.gateway.exposure import check_exposure
from pgn.gateway.keys import new_key
from pgn.settings import Settings


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_loopback_is_served_without_keys(host: str) -> None:
    """A checkout runs without any configuration."""
    check_exposure(Settings(host=host))


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.7", "gateway.example", "localhost.example", ""])
def test_beyond_loopback_is_refused_naming_both_ways_out(host: str, tmp_path: Path) -> None:
    """Keys, or the word that somebody else checks who asks."""
    with pytest.raises(SetupError, match=r"loopback only.*PGN_KEYS.*PGN_ANONYMOUS"):
        check_exposure(Settings(host=host))
    check_exposure(Settings(host=host, anonymous=True))
    new_key(tmp_path / "keys.toml", "team-a")
    check_exposure(Settings(host=host, keys=tmp_path / "keys.toml"))


def test_a_file_of_keys_that_cannot_be_read_is_met_before_anything_is_started(tmp_path: Path) -> None:
    """A misspelt path must not open the door, nor be met by a gateway that dies three times."""
    with pytest.raises(SetupError, match="cannot be read"):
        check_exposure(Settings(keys=tmp_path / "missing.toml"))
