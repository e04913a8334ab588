"""Files that are either whole or absent, however the process ends."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a neighbouring temporary file, flush it to disk and rename it to `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.draft")
    write(draft)
    with draft.open("rb+") as file:
        os.fsync(file.fileno())
    draft.replace(path)


def write_text_whole(path: Path, text: str) -> None:
    """Write `text` as UTF-8 to `path`, or nothing."""
    write_whole(path, lambda draft: draft.write_text(text, encoding="utf-8"))


def sha256_of(path: Path) -> str:
    """Return the lower-case hexadecimal SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
