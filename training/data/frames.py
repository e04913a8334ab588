"""Images as a training step takes them, before chance changes them: which part of the whole, and how large.

Serving, validation and most training see the centre square of `pgn.images`. The paper's training sees two other frames.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final, TypeAlias

import numpy as np
import torchvision.transforms.functional as TF
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode

from training.data.dataset import Example

_LONGEST: Final = 4 / 3  # longer side to shorter one, of what is stretched: torchvision's default for random crops

Frame: TypeAlias = Callable[[Image.Image], np.ndarray]
"""From a whole RGB image to (H, W, 3) uint8."""


def stretched(image: Image.Image, size: int) -> np.ndarray:
    """The image, cut in the middle to an aspect of 3:4 to 4:3, stretched to a square; (size, size, 3) uint8.

    Source: Loedeman et al., BMVC 2024, released code: a random crop of the whole area, for which nearly every draw
    fails, so that this, torchvision's fall-back, is what its models were trained on.
    """
    width, height = image.size
    rows, columns = min(height, round(width * _LONGEST)), min(width, round(height * _LONGEST))
    top, left = (height - rows) // 2, (width - columns) // 2
    square = TF.resized_crop(image, top, left, rows, columns, [size, size], InterpolationMode.BICUBIC)
    return np.asarray(square)


def strip(image: Image.Image, size: int) -> np.ndarray:
    """The whole image with its shorter side scaled to `size`; (H, W, 3) uint8, of which a step takes a random square.

    Source: as above, for CLEVR.
    """
    return np.asarray(TF.resize(image, [size], InterpolationMode.BILINEAR))


class Frames:
    """The frames of images, decoded in threads, and ahead of need where they are asked for in time.

    Args:
        examples: Those that can be read.
        frame: What is made of each.
        keep: Whether a frame that was used stays in memory.
    """

    def __init__(self, examples: Sequence[Example], frame: Frame, *, keep: bool) -> None:
        self._examples = examples
        self._frame = frame
        self._keep = keep
        self._threads = ThreadPoolExecutor(os.cpu_count())
        self._decoded: dict[int, Future[np.ndarray]] = {}

    def prefetch(self, indices: Tensor) -> None:
        """Begin to decode the images at these (B) indices, which `take` will be asked for; waits for nothing."""
        for index in dict.fromkeys(indices.tolist()):
            if index not in self._decoded:
                self._decoded[index] = self._threads.submit(self._decode, self._examples[index])

    def take(self, indices: Tensor) -> list[np.ndarray]:
        """The B frames at (B) indices, uint8; raises RequestError if an image can no longer be read."""
        self.prefetch(indices)
        wanted = indices.tolist()
        found = {index: self._decoded[index].result() for index in set(wanted)}
        if not self._keep:
            for index in found:
                del self._decoded[index]
        return [found[index] for index in wanted]

    def _decode(self, example: Example) -> np.ndarray:
        return self._frame(example.read())
