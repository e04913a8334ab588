"""Public sets in miniature: a few small files laid out as their publishers do."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from tests.toys import make_images


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """An empty data folder."""
    return tmp_path / "data"


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """torchvision's downloads fail as on a machine without a network, whatever machine this is."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError("no network in tests")

    for module in ("cifar", "svhn", "flowers102", "dtd", "oxford_iiit_pet", "eurosat"):
        for name in ("download_and_extract_archive", "download_url"):
            monkeypatch.setattr(f"torchvision.datasets.{module}.{name}", refuse, raising=False)


@pytest.fixture
def write_images(data_dir: Path) -> Callable[[Iterable[str]], None]:
    """Writes a picture of its own at each path below the data folder, whatever the suffix says."""

    def write(paths: Iterable[str]) -> None:
        paths = [data_dir / path for path in paths]
        for path, data in zip(paths, make_images(len(paths), size=8), strict=True):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)

    return write
