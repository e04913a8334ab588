"""Rendered and photographed toys whose labels are facts of the scene: dSprites and small NORB, for VTAB."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from training.data.dataset import Example
from training.data.named.official import with_drawn_test
from training.data.named.parts import Parts, array_examples
from training.data.splitting import draw_stratified

DSPRITES = "dsprites_ndarray_co1sh3sc6or40x32y32_64x64.npz"
SMALL_NORB = {
    "training": "smallnorb-5x46789x9x18x6x2x96x96-training",
    "testing": "smallnorb-5x01235x9x18x6x2x96x96-testing",
}
ELEVATIONS = tuple(f"{degrees} degrees up" for degrees in range(30, 75, 5))
AZIMUTHS = tuple(f"{degrees} degrees around" for degrees in range(0, 360, 20))
_BYTES, _INTEGERS = 0x1E3D4C55, 0x1E3D4C54  # magic numbers of small NORB's matrices


def dsprites(folder: Path, *, latent: int, values: int, name: str) -> Parts:
    """dSprites, 737,280 white shapes on black; 16 classes of neighbouring values of one latent.

    A tenth is validation and a tenth test, as in VTAB, with our own draw. Takes 3 GB of memory.

    Args:
        folder: Of the set.
        latent: Column of `latents_classes`: 3 is the orientation, 4 the horizontal position.
        values: How many values the latent has.
        name: What a class name says, with one {}.
    """
    with np.load(folder / DSPRITES, allow_pickle=False) as found:
        pictures, latents = found["imgs"], found["latents_classes"]
    labels = latents[:, latent] * 16 // values
    pictures *= 255
    parts = Parts(tuple(name.format(number) for number in range(16)), array_examples("all", pictures, labels), None, ())
    return with_drawn_test(parts, val=0.1, test=0.1)


def small_norb(folder: Path, *, column: int, step: int, classes: tuple[str, ...]) -> Parts:
    """Small NORB, the left camera's pictures. Of the official test pictures, one half validates and the other tests.

    Args:
        folder: Of the set.
        column: Of the `info` matrix: 1 is the elevation, 2 the azimuth.
        step: Between neighbouring values of the column.
        classes: Names of the values.
    """
    train, held = (_norb_examples(folder, split, column, step) for split in SMALL_NORB)
    val, test = draw_stratified([example.label for example in held], {"test": 0.5}, classes)
    return Parts(classes, train, [held[i] for i in val], [held[i] for i in test])


def _norb_examples(folder: Path, split: str, column: int, step: int) -> list[Example]:
    pictures, info = (read_matrix(folder / f"{SMALL_NORB[split]}-{kind}.mat") for kind in ("dat", "info"))
    return array_examples(split, pictures[:, 0], info[:, column] // step)


def read_matrix(path: Path) -> np.ndarray:
    """The matrix in a file of small NORB's own format: magic, number of dimensions, dimensions, values."""
    data = path.read_bytes()
    magic, count = np.frombuffer(data, "<i4", 2)
    kind = {_BYTES: "u1", _INTEGERS: "<i4"}.get(int(magic))
    if kind is None:
        raise ValueError(f"{path.name} is no matrix of small NORB")
    shape = np.frombuffer(data, "<i4", count, offset=8)
    return np.frombuffer(data, kind, offset=8 + 4 * max(3, int(count))).reshape(shape)
