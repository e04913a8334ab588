"""The model store as a folder: `backbones/<name>/`, `datasets/<name>/<bundle>`, `index.json`."""

from __future__ import annotations

import errno
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from pgn.backbone_spec import SPEC_FILE, BackboneSpec, read_spec
from pgn.bundle import Bundle, file_name, read_bundle, write_atomically
from pgn.errors import BackboneInvalid, BundleCorrupt, BundleIncompatible, SetupError, StoreReadOnly
from pgn.index import Index, change_index, read_index
from pgn.store.incoming import Incoming, full_disk_is_told, receive
from pgn.store.signing import Verifier, signature_path

SYNC_FILE: Final = "sync.json"
"""Lies in a folder that follows a bucket, and says how it stands to it."""
_UNFINISHED_S: Final = 3600
_log = logging.getLogger(__name__)


class LocalStore:
    """Finds and verifies what the index names, and is the `Publisher` of a store without a bucket.

    Args:
        root: Folder of the model store.
        verify: Checks the signature of what is published; None wants none.
    """

    def __init__(self, root: Path, verify: Verifier | None = None) -> None:
        self.root = root
        self._verify = verify

    def backbone_folder(self, digest: str) -> Path:
        """The folder whose `backbone.json` has this digest.

        Raises:
            BackboneInvalid: There is none; the message lists what there is.
        """
        found = []
        for folder in self._folders():
            try:
                _, other = read_spec(folder)
            except BackboneInvalid as error:  # a damaged spare is named, and does not hide the good one
                found.append(error.message)
                continue
            if other == digest:
                return folder
            found.append(f"{folder.name} ({other[:16]}…)")
        raise BackboneInvalid(
            f"{self.root / 'backbones'} holds no backbone {digest[:16]}…; it holds {', '.join(found) or 'none'}"
        )

    def backbones(self) -> dict[Path, tuple[BackboneSpec, str]]:
        """Spec and digest of every backbone folder; raises BackboneInvalid if one is damaged."""
        return {folder: read_spec(folder) for folder in self._folders()}

    def _folders(self) -> list[Path]:
        return [path.parent for path in sorted((self.root / "backbones").glob(f"*/{SPEC_FILE}"))]

    def bundle_path(self, dataset: str, digest: str) -> Path:
        """Where the bundle of this data set and digest lies, whether it is there or not."""
        return self.root / "datasets" / dataset / file_name(dataset, digest)

    def read(self, dataset: str, digest: str, *, backbone: str) -> Bundle:
        """Open and verify a bundle that the index names, all 64 digits of it; raises as `read_bundle` does."""
        bundle = read_bundle(self.bundle_path(dataset, digest), backbone=backbone)
        if bundle.digest != digest:
            raise BundleCorrupt(f"bundle {bundle.version} has SHA-256 {bundle.digest}, the index says {digest}")
        return bundle

    def publish(
        self, bundle: bytes | Path, *, dataset: str | None = None, share: float = 1.0, signature: bytes | None = None
    ) -> tuple[Bundle, Index]:
        """Verify a bundle, copy it in and serve it from the next revision on; see `Publisher`."""
        incoming = receive(bundle, dataset=dataset, signature=signature, verify=self._verify)
        manifest, digest = incoming.bundle.manifest, incoming.bundle.digest
        start = Index(revision=0, backbone=manifest.backbone.digest)

        def serve(index: Index) -> Index:
            if index is start:
                self.backbone_folder(manifest.backbone.digest)
            check_backbone(incoming.bundle, index)
            after = index.with_bundle(manifest.dataset, digest, share)
            mended = self.place(incoming)
            return index.renewed() if after is index and mended else after

        return incoming.bundle, self._change(serve, new=start)

    def remove(self, dataset: str) -> Index:
        """Serve the data set no more and delete its files; see `Publisher`."""
        return self._change(lambda index: index.without(dataset))

    def rollback(self, dataset: str) -> Index:
        """Take the newest version back; see `Publisher`."""
        return self._change(lambda index: index.rolled_back(dataset))

    def index(self) -> Index:
        """What the store says now; see `Publisher`."""
        return read_index(self.root)

    def _change(self, change: Callable[[Index], Index], *, new: Index | None = None) -> Index:
        if (self.root / SYNC_FILE).exists():
            raise SetupError(
                f"{self.root} follows a bucket, which would undo the change",
                hint="name the bucket with PGN_REMOTE or --remote, or another folder with --store",
            )
        try:
            with full_disk_is_told(self.root):
                self.sweep()
                return change_index(
                    self.root, change, new=new, after=lambda old, index: self.delete(old.kept() - index.kept())
                )
        except OSError as error:
            if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
                raise StoreReadOnly(f"{self.root} cannot be written: {error.strerror}") from error
            raise

    def place(self, incoming: Incoming) -> bool:
        """Put the files where the index will name them; False if they are there already."""
        target = self.bundle_path(incoming.bundle.manifest.dataset, incoming.bundle.digest)
        target.parent.mkdir(parents=True, exist_ok=True)
        wanted = {target: incoming.data}
        if incoming.signature is not None:
            wanted[signature_path(target)] = incoming.signature
        missing = {path: data for path, data in wanted.items() if not path.is_file() or path.read_bytes() != data}
        for path, data in missing.items():
            write_atomically(path, data)
        return bool(missing)

    def delete(self, bundles: frozenset[tuple[str, str]]) -> None:
        """Delete the files of these data sets and digests, and folders that this leaves empty.

        Whoever has one of them mapped keeps it until he lets go. What cannot be deleted is logged: the index is what
        counts, and it does not name it any more.
        """
        for dataset, digest in bundles:
            path = self.bundle_path(dataset, digest)
            try:
                signature_path(path).unlink(missing_ok=True)
                path.unlink(missing_ok=True)
                if path.parent.is_dir() and not any(path.parent.iterdir()):
                    path.parent.rmdir()
            except OSError as error:
                _log.warning("%s cannot be deleted: %s", path, error.strerror)

    def sweep(self) -> None:
        """Delete the unfinished copies that writers left which were killed: those older than an hour."""
        for path in self.root.glob("datasets/*/.*"):  # what `write_atomically` has not yet renamed
            with suppress(OSError):
                if path.stat().st_mtime < time.time() - _UNFINISHED_S:
                    path.unlink()


def check_backbone(bundle: Bundle, index: Index) -> None:
    """Raises BundleIncompatible if the bundle was trained for another backbone than the index serves."""
    backbone = bundle.manifest.backbone
    if backbone.digest != index.backbone:
        raise BundleIncompatible(
            f"{bundle.manifest.dataset} {bundle.version} was trained on backbone {backbone.name} "
            f"({backbone.digest[:16]}…), not on {index.backbone[:16]}…"
        )
