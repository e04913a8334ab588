"""A data set whose version changes all the time, and what each of its versions answers."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from pgn.bundle import read_bundle
from pgn.index import read_index
from pgn.method.backbone import load_backbone
from pgn.method.predictor import Predictor
from pgn.store.local import LocalStore
from tests.pgn.stages.asking import SQUARES, probabilities
from tests.toys import make_bundle, make_store

VERSIONS = 8  # more than are kept for going back, so files are deleted and come again


@dataclass
class Swapping:
    """A store in which `pets` has another version every moment, and what each version says of each toy image."""

    store: LocalStore
    versions: list[Path]
    wanted: dict[str, list[dict[str, float]]]  # by digest's first 16 digits, by image
    swaps: int = 0

    @contextmanager
    def in_background(self, pause_s: float) -> Iterator[None]:
        """Publish one version after the other until the block ends."""
        ending = threading.Event()
        failed: list[BaseException] = []

        def swap() -> None:
            try:
                for path in itertools.cycle(self.versions):
                    self.store.publish(path)
                    self.swaps += 1
                    if ending.wait(pause_s):
                        return
            except BaseException as error:
                failed.append(error)

        thread = threading.Thread(target=swap)
        thread.start()
        try:
            yield
        finally:
            ending.set()
            thread.join()
        assert not failed

    def check(self, result: dict[str, Any], image: int) -> None:
        """Whatever version answered, the probabilities are that version's."""
        wanted = self.wanted[result["version"]][image]
        assert probabilities(result) == pytest.approx(wanted, abs=1e-5)


def make_swapping(folder: Path) -> Swapping:
    """`pets` with eight versions, one of them served, beside `flowers` and `shapes`."""
    store = make_store(folder / "store", ["flowers", "pets", "shapes"])
    index = read_index(store.root)
    made = [make_bundle(folder / "made", "pets", index.backbone, seed=10 + i) for i in range(VERSIONS)]
    served = [store.bundle_path(name, entry.versions[0].digest) for name, entry in index.datasets.items()]
    backbone = load_backbone(store.backbone_folder(index.backbone))
    wanted = {}
    for path in (*served, *made):
        bundle = read_bundle(path)
        scores = Predictor(backbone, bundle).probabilities(torch.from_numpy(SQUARES)).tolist()
        wanted[bundle.version] = [dict(zip(bundle.manifest.classes, row, strict=True)) for row in scores]
    return Swapping(store, made, wanted)
