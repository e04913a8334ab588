"""To whom the gateway may be open: with keys to everybody, without them to this machine alone."""

from __future__ import annotations

import ipaddress

from pgn.errors import SetupError
from pgn.gateway.keys import read_keys
from pgn.settings import Settings


def check_exposure(settings: Settings) -> None:
    """Refuse what would open the service by an oversight, before anything is started.

    Raises:
        SetupError: The file of API keys cannot be read; or there is none, `host` is no loopback address, and nobody
            said that somebody else checks who asks.
    """
    if settings.keys is not None:
        read_keys(settings.keys)
    elif not settings.anonymous and not is_loopback(settings.host):
        raise SetupError(
            f"there are no API keys, so {settings.host!r} is not served: loopback only",
            hint="set PGN_KEYS (`pgn key new` makes the file), or PGN_ANONYMOUS=true where a proxy checks who asks",
        )


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach what listens on `host`."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
