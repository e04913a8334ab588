"""Frozen backbones in a bucket: sent up, listed, fetched. They are large, so each step goes on where it broke off."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from pathlib import Path
from typing import Final

from pgn.backbone_spec import SPEC_FILE, WEIGHTS_FILE, BackboneSpec, read_spec, verify_weights
from pgn.errors import ArtefactError, BackboneInvalid
from pgn.store.incoming import full_disk_is_told
from pgn.store.local import LocalStore
from pgn.store.remote import backbone_key
from pgn.store.s3 import Absent, Bucket, Changed, Progress

_MAX_SPEC_BYTES: Final = 2**20


def publish_backbone(bucket: Bucket, folder: Path, progress: Progress) -> tuple[str, bool]:
    """Put a verified backbone folder into the bucket under its digest.

    The spec goes last: where it lies, the weights are complete.

    Returns:
        The digest, and False if it was there already.

    Raises:
        BackboneInvalid: The folder does not verify.
        StoreUnavailable: It broke off; the same call goes on.
    """
    spec, digest = read_spec(folder)
    weights = verify_weights(folder, spec)
    sent = bucket.upload(weights, backbone_key(digest, WEIGHTS_FILE), progress)
    try:
        bucket.create(backbone_key(digest, SPEC_FILE), (folder / SPEC_FILE).read_bytes())
    except Changed:
        return digest, sent
    return digest, True


def remote_backbones(bucket: Bucket) -> dict[str, BackboneSpec]:
    """The spec of every complete backbone in the bucket, by digest; raises BackboneInvalid if one is damaged."""
    found = {}
    with tempfile.TemporaryDirectory(prefix="pgn-") as folder:
        for key in bucket.sizes("backbones"):
            if key.endswith(f"/{SPEC_FILE}"):
                digest = key.split("/")[1]
                found[digest] = _fetch_spec(bucket, digest, Path(folder))
    return found


def fetch_backbone(bucket: Bucket, digest: str, store: LocalStore, progress: Progress) -> Path:
    """The folder of this backbone in `store`, fetched and verified if it is not there yet.

    Raises:
        BackboneInvalid: It is not in the bucket, or not what its digests say.
        StoreUnavailable: It broke off; the same call goes on.
    """
    try:
        return store.backbone_folder(digest)
    except BackboneInvalid:
        pass
    scratch = store.root / ".incoming" / digest
    with full_disk_is_told(store.root):
        scratch.mkdir(parents=True, exist_ok=True)
        try:
            spec = _fetch_spec(bucket, digest, scratch)
            bucket.download(backbone_key(digest, WEIGHTS_FILE), scratch / WEIGHTS_FILE, progress)
            verify_weights(scratch, spec)
        except Absent as error:
            raise BackboneInvalid(
                f"{error} does not exist", hint="`pgn backbone publish` puts a backbone into the bucket"
            ) from error
        except ArtefactError:
            shutil.rmtree(scratch)  # going on after wrong bytes would never end well
            raise
        folder = store.root / "backbones" / f"{spec.name}.{digest[:16]}"
        folder.parent.mkdir(exist_ok=True)
        shutil.rmtree(folder, ignore_errors=True)  # under this name, but not this backbone: it is damaged
        return scratch.rename(folder)


def _fetch_spec(bucket: Bucket, digest: str, folder: Path) -> BackboneSpec:
    """Write the spec into `folder` and read it; raises Absent, BackboneInvalid."""
    key = backbone_key(digest, SPEC_FILE)
    data = bucket.read(key, max_bytes=_MAX_SPEC_BYTES).data
    if hashlib.sha256(data).hexdigest() != digest:
        raise BackboneInvalid(f"{bucket.url(key)} is not what its digest says")
    (folder / SPEC_FILE).write_bytes(data)
    return read_spec(folder)[0]
