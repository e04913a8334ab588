"""The bank: one module for every bundle that the index names, ready to be asked for by name or by digest.

Stage pgn holds generators (the prompt bank), stage vit holds heads; both come from the same bundles by this loader.
A bundle that does not verify is kept with its reason and blocks nobody else.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import nn

from pgn.bundle import Bundle, Manifest
from pgn.errors import BundleInvalid, DatasetUnavailable, NotReady, PgnError
from pgn.index import Index
from pgn.message import Target
from pgn.store.local import LocalStore

M = TypeVar("M", bound=nn.Module)

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Held(Generic[M]):
    """A served version: its manifest, its digest and the module made of it."""

    manifest: Manifest
    digest: str
    module: M

    @property
    def version(self) -> str:
        """The digest's first 16 hex digits, as clients see it."""
        return self.digest[:16]


class Bank(Generic[M]):
    """Every bundle of the index, loaded.

    Args:
        store: Where the bundles lie.
        index: What is served, and on which backbone.
        build: Makes the module of a verified bundle; may raise.
        device: Where the modules live.

    Attributes:
        faults: Why a bundle is not held, by data set and digest.
    """

    def __init__(
        self, store: LocalStore, index: Index, build: Callable[[Bundle], M], device: torch.device | str = "cpu"
    ) -> None:
        self._index = index
        self._held: dict[tuple[str, str], Held[M]] = {}
        self.faults: dict[tuple[str, str], PgnError] = {}
        for dataset, entry in index.datasets.items():
            for version in entry.versions:
                try:
                    bundle = store.read(dataset, version.digest, backbone=index.backbone)
                    module = build(bundle).to(device)
                except PgnError as error:
                    self._refuse(dataset, version.digest, error)
                except Exception as error:  # whatever a file holds, the other bundles are served
                    _log.exception("bundle not loaded: data set %s, version %s", dataset, version.digest[:16])
                    self._refuse(dataset, version.digest, BundleInvalid(f"it cannot be loaded: {error}"))
                else:
                    self._held[dataset, version.digest] = Held(bundle.manifest, version.digest, module)

    def _refuse(self, dataset: str, digest: str, error: PgnError) -> None:
        _log.warning("bundle refused: data set %s, version %s: %s", dataset, digest[:16], error.message)
        self.faults[dataset, digest] = error

    def find(self, target: Target) -> Held[M]:
        """What answers for `target`: the digest it names, or else the version with the largest share.

        Raises:
            UnknownDataset: The index has no such data set.
            DatasetUnavailable: Its bundle was refused; the message has the reason.
            NotReady: The digest is of a version that this index does not name.
        """
        digest = target.digest or self._index.main_version(target.dataset)
        key = (target.dataset, digest)
        if key in self._held:
            return self._held[key]
        if key in self.faults:
            raise DatasetUnavailable(f"data set {target.dataset!r} is not available: {self.faults[key].message}")
        raise NotReady(f"version {digest[:16]} of data set {target.dataset!r} is not loaded")
