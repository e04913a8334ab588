"""A real S3 server, a fresh prefix for each test, and a store with bundles to put there."""

from __future__ import annotations

import functools
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import botocore.loaders
import pytest

from pgn.index import read_index
from pgn.settings import Settings
from pgn.store.local import LocalStore
from pgn.store.remote import RemoteStore, open_remote
from tests.s3 import BUCKET, RunningS3
from tests.toys import make_bundle, make_store

MakeBundle = Callable[..., Path]


@pytest.fixture(scope="session", autouse=True)
def one_loader() -> Iterator[None]:
    """boto3 reads its description of S3 once for all clients of the tests: that is most of what a client costs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("botocore.session.create_loader", functools.cache(botocore.loaders.create_loader))
        yield


@pytest.fixture
def act_as(s3: RunningS3, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Sets the environment that boto3 reads: `rw` may publish, `ro` may read, `wrong` has a wrong secret."""

    def act(user: str) -> None:
        for name, value in s3.environment(user).items():
            monkeypatch.setenv(name, value)

    return act


@pytest.fixture
def prefix(act_as: Callable[[str], None]) -> str:
    """A prefix that nobody has used, below which `rw` acts."""
    act_as("rw")
    return f"test-{uuid.uuid4().hex[:12]}"


@pytest.fixture
def settings(prefix: str, tmp_path: Path) -> Callable[..., Settings]:
    """Makes settings for the prefix, with a folder of one's own for each name."""

    def make(folder: str = "folder", **changes: Any) -> Settings:
        return Settings(**{"store": tmp_path / folder, "remote": f"s3://{BUCKET}/{prefix}", "sync_s": 0.05, **changes})

    return make


@pytest.fixture(scope="session")
def toys(tmp_path_factory: pytest.TempPathFactory) -> LocalStore:
    """A store with a backbone and two data sets. Read only."""
    return make_store(tmp_path_factory.mktemp("toys") / "store", ["digits", "letters"])


@pytest.fixture(scope="session")
def bundle(toys: LocalStore, tmp_path_factory: pytest.TempPathFactory) -> MakeBundle:
    """Makes the bundle file of a data set; other seeds are other versions."""
    folder = tmp_path_factory.mktemp("bundles")
    backbone = read_index(toys.root).backbone
    made: dict[tuple[str, int], Path] = {}

    def make(dataset: str, seed: int = 0) -> Path:
        if (dataset, seed) not in made:
            made[dataset, seed] = make_bundle(folder, dataset, backbone, seed=seed)
        return made[dataset, seed]

    return make


@pytest.fixture
def bucket_store(settings: Callable[..., Settings], toys: LocalStore) -> RemoteStore:
    """The model store in the bucket, which holds the toys' backbone and serves nothing yet."""
    from pgn.store.backbones import publish_backbone

    store = open_remote(settings())
    publish_backbone(store.bucket, toys.root / "backbones" / "toy", lambda _: None)
    return store
