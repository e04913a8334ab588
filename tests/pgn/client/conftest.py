"""A client of a real gateway over a scripted TorchServe."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pgn.client import Client
from pgn.settings import Settings
from pgn.store.local import LocalStore
from tests.pgn.gateway.conftest import running_gateway, store
from tests.pgn.gateway.scripted import ScriptedTorchServe

__all__ = ["store"]


@pytest.fixture(scope="session")
def client(store: LocalStore) -> Iterator[Client]:
    """Asks a gateway that serves birds, boats and digits."""
    scripted = ScriptedTorchServe()
    scripted.start()
    try:
        with running_gateway(Settings(store=store.root), scripted.config) as running, Client(running.url) as client:
            running.wait_ready()
            yield client
    finally:
        scripted.stop()
