"""From a file or an array to an image: what an example's `read` calls."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from pgn.errors import UnreadableImage
from pgn.images import decode_rgb


def read_file(path: str | Path) -> Image.Image:
    """The upright RGB image in the file at `path`; raises RequestError if it is gone or cannot be decoded."""
    try:
        return decode_rgb(Path(path).read_bytes())
    except OSError as error:
        raise UnreadableImage(f"{path} cannot be read: {error.strerror}") from error


def from_array(pixels: np.ndarray) -> Image.Image:
    """An (H, W) grey or (H, W, 3) RGB uint8 array as an RGB image."""
    return Image.fromarray(pixels).convert("RGB")
