"""Values that take long to make, kept on disk: runs of one grid share them, and the processes of one run."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from pgn.bundle import write_atomically
from training.disk import clear_disk_errors


def kept(cache: Path, key: bytes, make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    """What `make` gives, from the folder `cache` if it was made before.

    Args:
        cache: Folder; it holds nothing that could not be made again.
        key: All that the values depend on. A file is named by its digest, so another key is another file.
        make: Tensors by name.

    Raises:
        DiskFull: There is no room to keep them.
        SetupError: The folder cannot be written.
    """
    path = cache / f"{hashlib.sha256(key).hexdigest()[:32]}.safetensors"
    with suppress(OSError, SafetensorError):  # a damaged one is made again
        return load(path.read_bytes())
    made = save(make())
    with clear_disk_errors(cache):
        cache.mkdir(parents=True, exist_ok=True)
        write_atomically(path, made)
    return load(made)
