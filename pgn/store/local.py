"""The model store as a folder: `backbones/<name>/`, `datasets/<name>/<bundle>`, `index.json`."""

from __future__ import annotations

from pathlib import Path

from pgn.backbone_spec import SPEC_FILE, BackboneSpec, read_spec
from pgn.bundle import Bundle, file_name, read_bundle, write_atomically
from pgn.errors import BackboneInvalid, BundleCorrupt
from pgn.index import Index, change_index


class LocalStore:
    """Finds and verifies what the index names."""

    def __init__(self, root: Path) -> None:
        self.root = root

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

    def add(self, bundle_file: Path) -> tuple[Bundle, Index]:
        """Verify a bundle, copy it in and serve it from the next revision on.

        Raises:
            BundleIncompatible: It fits another backbone than the index serves.
            ArtefactError: It does not verify, or its backbone is not in this store.
        """
        bundle = read_bundle(bundle_file)
        self.backbone_folder(bundle.manifest.backbone.digest)
        start = Index(revision=0, backbone=bundle.manifest.backbone.digest)

        def serve(index: Index) -> Index:
            read_bundle(bundle_file, backbone=index.backbone)
            target = self.bundle_path(bundle.manifest.dataset, bundle.digest)
            target.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(target, bundle_file.read_bytes())
            return index.with_bundle(bundle.manifest.dataset, bundle.digest)

        return bundle, change_index(self.root, serve, new=start)
