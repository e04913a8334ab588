"""Tiny-ImageNet's training images as one uint8 array that can be memory-mapped.

Only `train/` is read: `val/` and `test/` never reach the student.

    python -m training.backbones.tiny_imagenet --folder tiny-imagenet-200 --out pool/images.npy
"""

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.lib.format import open_memmap
from PIL import Image

from training.backbones.files import write_whole

SIDE_PX = 64

log = logging.getLogger(__name__)


def training_files(folder: Path) -> list[Path]:
    """List the training images, one of every class in turn, so that any prefix is nearly balanced.

    Raises:
        FileNotFoundError: `folder` has no `train/<class>/images/*.JPEG`.
    """
    classes = [sorted(images.glob("*.JPEG")) for images in sorted(folder.glob("train/*/images"))]
    rounds = max(map(len, classes), default=0)
    if not rounds:
        raise FileNotFoundError(f"{folder} has no train/<class>/images/*.JPEG; give the folder tiny-imagenet-200")
    return [files[i] for i in range(rounds) for files in classes if i < len(files)]


def pack(files: Sequence[Path], out: Path) -> None:
    """Decode `files` in order into `out`: an .npy file, (N, 64, 64, 3) uint8 RGB.

    Raises:
        ValueError: an image is not 64 x 64 px.
    """

    def write(draft: Path) -> None:
        images = open_memmap(draft, mode="w+", dtype=np.uint8, shape=(len(files), SIDE_PX, SIDE_PX, 3))
        for row, file in enumerate(files):
            with Image.open(file) as image:
                if image.size != (SIDE_PX, SIDE_PX):
                    raise ValueError(f"{file} is {image.size} px, expected {SIDE_PX} x {SIDE_PX}")
                images[row] = np.asarray(image.convert("RGB"))
        images.flush()

    write_whole(out, write)


def main() -> None:
    """Run the command line."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    parser = argparse.ArgumentParser(description="Pack Tiny-ImageNet's training images into one array.")
    parser.add_argument("--folder", type=Path, required=True, help="the folder tiny-imagenet-200")
    parser.add_argument("--out", type=Path, required=True, help=".npy file to write")
    arguments = parser.parse_args()
    files = training_files(arguments.folder)
    pack(files, arguments.out)
    log.info("%d images in %s", len(files), arguments.out)


if __name__ == "__main__":
    main()
