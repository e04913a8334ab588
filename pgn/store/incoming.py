"""A bundle that comes in, as bytes or as a file: verified whole before any store takes it."""

from __future__ import annotations

import errno
import hashlib
import json
import re
import struct
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pgn.bundle import NAME_PATTERN, Bundle, file_name, read_bundle
from pgn.errors import BundleInvalid, BundleMissing, DiskFull
from pgn.store.signing import Verifier, signature_path


@dataclass(frozen=True)
class Incoming:
    """A verified bundle on its way into a store, with the very bytes that were verified."""

    bundle: Bundle
    data: bytes
    signature: bytes | None


def receive(
    source: bytes | Path, *, dataset: str | None = None, signature: bytes | None = None, verify: Verifier | None = None
) -> Incoming:
    """Read and verify a bundle, and its signature if `verify` wants one.

    Args:
        source: The bytes, or a file named as bundles are; its signature may lie beside it.
        dataset: The name that the manifest has to say.
        signature: Of the bundle; None looks beside the file.
        verify: Checks the signature; None takes what comes.

    Raises:
        BundleMissing, BundleCorrupt, BundleInvalid: It does not verify, or is another data set's.
        SignatureInvalid: There is none, or it does not fit.
    """
    if isinstance(source, bytes):
        data = source
        name = file_name(_dataset_of(data), hashlib.sha256(data).hexdigest())
    else:
        name = source.name
        try:
            data = source.read_bytes()
            beside = signature_path(source)
            signature = beside.read_bytes() if signature is None and beside.is_file() else signature
        except OSError as error:
            raise BundleMissing(f"{source} cannot be read: {error.strerror}") from error
    # Verified as a copy of one's own: whoever still writes to the file cannot change what was looked at.
    with full_disk_is_told("the system's temporary folder"), tempfile.TemporaryDirectory(prefix="pgn-") as folder:
        path = Path(folder) / name
        path.write_bytes(data)
        bundle = read_bundle(path)
        if verify is not None:
            verify(path, signature)
    if dataset is not None and bundle.manifest.dataset != dataset:
        raise BundleInvalid(
            f"the bundle is of the data set {bundle.manifest.dataset!r}, not of {dataset!r}",
            hint="a bundle is served under the name in its manifest; `pgn train --name` sets it",
        )
    return Incoming(bundle, data, signature)


def _dataset_of(data: bytes) -> str:
    """What the manifest calls its data set, which the name of the copy needs; `read_bundle` then checks the rest."""
    try:
        (length,) = struct.unpack_from("<Q", data)
        name = json.loads(json.loads(data[8 : 8 + length])["__metadata__"]["manifest"])["dataset"]
    except (struct.error, ValueError, KeyError, TypeError, RecursionError) as error:
        raise BundleInvalid(f"{len(data)} bytes are no bundle: they hold no manifest") from error
    if not re.fullmatch(NAME_PATTERN, str(name)):
        raise BundleInvalid(f"the manifest names the data set {str(name)[:80]!r}: a-z, 0-9, _ and -, at most 63")
    return str(name)


@contextmanager
def full_disk_is_told(where: object) -> Iterator[None]:
    """Inside, a disk without room is a DiskFull that names `where`."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFull(f"no room in {where}") from error
        raise
