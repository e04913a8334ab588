"""Where the images of a data set are kept: in a file, in a part of one, or in memory. What an example's `source` is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from pgn.errors import UnreadableImage
from pgn.images import decode_rgb


@dataclass(frozen=True, slots=True)
class ImageFile:
    """An encoded image that fills a file, or lies within one as in a tar.

    Attributes:
        path: Of the file, which is opened for each read, so that threads share nothing.
        offset: Where the image begins, in bytes.
        length: Of the image, in bytes; None if it fills the file.
    """

    path: str
    offset: int = 0
    length: int | None = None

    def read(self) -> Image.Image:
        """The upright RGB image; raises RequestError if it is gone or cannot be decoded."""
        try:
            return decode_rgb(self.part(0, self.size()))
        except OSError as error:
            reason = f"{self.path} cannot be read: {error.strerror}"
            raise UnreadableImage(reason, hint="put it back, or take it out of the data set") from error

    def size(self) -> int:
        """Bytes; raises OSError."""
        return Path(self.path).stat().st_size if self.length is None else self.length

    def part(self, start: int, count: int) -> bytes:
        """Up to `count` bytes from `start` on; raises OSError."""
        with Path(self.path).open("rb") as file:
            file.seek(self.offset + start)
            return file.read(count)


@dataclass(frozen=True, slots=True, eq=False)
class ImageArray:
    """An image as an (H, W) grey or (H, W, 3) RGB uint8 array."""

    pixels: np.ndarray

    def read(self) -> Image.Image:
        """The RGB image."""
        return Image.fromarray(self.pixels).convert("RGB")

    def size(self) -> int:
        """Bytes."""
        return self.pixels.nbytes

    def part(self, start: int, count: int) -> bytes:
        """Up to `count` bytes from `start` on."""
        return self.pixels.tobytes()[start : start + count]
