"""Clients of real gateways over a scripted TorchServe."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

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
    with _client_of(store) as client:
        yield client


@pytest.fixture
def own_store(store: LocalStore, tmp_path: Path) -> LocalStore:
    """A copy that a test may change."""
    return LocalStore(Path(shutil.copytree(store.root, tmp_path / "store")))


@pytest.fixture
def own_client(own_store: LocalStore) -> Iterator[Client]:
    """Asks a gateway over `own_store`."""
    with _client_of(own_store) as client:
        yield client


@contextmanager
def _client_of(store: LocalStore) -> Iterator[Client]:
    scripted = ScriptedTorchServe()
    scripted.start()
    try:
        with running_gateway(Settings(store=store.root), scripted.config) as running, Client(running.url) as client:
            running.wait_ready()
            yield client
    finally:
        scripted.stop()
