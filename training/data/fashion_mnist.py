"""Fashion-MNIST: 70,000 grey pictures of clothes, 28 x 28, from its four original files wherever they can be found."""

from __future__ import annotations

import gzip
import shutil
import struct
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from pgn.bundle import write_atomically
from pgn.errors import DataInvalid
from training.data.alone import alone
from training.data.dataset import Dataset, Example
from training.data.reading import ImageArray
from training.data.splitting import draw_stratified
from training.disk import clear_disk_errors

CLASSES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip
FILES = {
    split: (f"{stem}-images-idx3-ubyte.gz", f"{stem}-labels-idx1-ubyte.gz")
    for split, stem in (("train", "train"), ("test", "t10k"))
}
DEBIAN_PACKAGE = "dataset-fashion-mnist"
DEBIAN_FOLDER = Path("usr/share/datasets/fashion-mnist")


def fashion_mnist(data_dir: Path) -> Dataset:
    """The official test split, and a stratified tenth of the official training images as validation."""
    folder = find_files(data_dir)
    pictures, labels = _read_pair(folder, "train")
    official = _examples("train", pictures, labels)
    train, val = (tuple(official[i] for i in part) for part in draw_stratified(labels, {"val": 0.1}, CLASSES))
    return Dataset(
        name="fashion-mnist",
        classes=CLASSES,
        train=train,
        val=val,
        test=tuple(_examples("test", *_read_pair(folder, "test"))),
        flip=True,
        template="a photo of a {}, a piece of clothing",
        licence="MIT (Xiao, Rasul and Vollgraf, Fashion-MNIST)",
    )


def find_files(data_dir: Path) -> Path:
    """The folder with the four files: an existing copy, else the Debian package, else torchvision's download.

    Raises:
        DataInvalid: None of these worked; the message says what to do by hand.
        SetupError: The data folder cannot be written to.
    """
    target = data_dir / "fashion-mnist"
    with clear_disk_errors(target):
        if (found := at_hand(data_dir)) is not None:
            return found
        target.mkdir(parents=True, exist_ok=True)  # before anything is downloaded for nothing
        with alone(target):
            for fetch in (_fetch_debian_package, _fetch_with_torchvision):
                if not _is_complete(target):
                    fetch(target)
        if _is_complete(target):
            return target
    raise DataInvalid(
        f"Fashion-MNIST is neither in {data_dir}, {target} nor /{DEBIAN_FOLDER}, and could not be downloaded",
        hint=f"put the four files ({', '.join(sum(FILES.values(), ()))}) into {target}, or "
        f"'apt install {DEBIAN_PACKAGE}', or point --data-dir at a copy",
    )


def at_hand(data_dir: Path) -> Path | None:
    """The folder that all four files lie in; None if they have to be downloaded."""
    places = (data_dir, data_dir / "fashion-mnist", "/" / DEBIAN_FOLDER)
    return next((folder for folder in places if _is_complete(folder)), None)


def _is_complete(folder: Path) -> bool:
    return all((folder / name).is_file() for pair in FILES.values() for name in pair)


def _fetch_debian_package(target: Path) -> None:
    """Download and unpack the package below `target`; needs no root and leaves the system alone."""
    if shutil.which("apt-get") is None or shutil.which("dpkg") is None:
        return
    with tempfile.TemporaryDirectory() as scratch:
        quiet: dict[str, Any] = {"cwd": scratch, "capture_output": True, "timeout": 300}
        try:
            subprocess.run(["apt-get", "download", DEBIAN_PACKAGE], check=True, **quiet)  # nosec B607
            for package in Path(scratch).glob("*.deb"):
                subprocess.run(["dpkg", "-x", package.name, "."], check=True, **quiet)  # nosec B607
        except (subprocess.SubprocessError, OSError):
            return
        _copy_files(Path(scratch) / DEBIAN_FOLDER, target)


def _fetch_with_torchvision(target: Path) -> None:
    from torchvision.datasets import FashionMNIST

    with tempfile.TemporaryDirectory() as scratch:
        try:
            FashionMNIST(scratch, download=True)
        except (RuntimeError, OSError):
            return
        _copy_files(Path(scratch) / "FashionMNIST" / "raw", target)


def _copy_files(source: Path, target: Path) -> None:
    if not _is_complete(source):
        return
    for pair in FILES.values():
        for name in pair:
            write_atomically(target / name, (source / name).read_bytes())  # another process may be reading it


def _examples(split: str, pictures: np.ndarray, labels: list[int]) -> list[Example]:
    return [
        Example(f"fashion-mnist/{split}/{number}", label, ImageArray(picture))
        for number, (picture, label) in enumerate(zip(pictures, labels, strict=True))
    ]


def _read_pair(folder: Path, split: str) -> tuple[np.ndarray, list[int]]:
    """(M, 28, 28) uint8 pictures and their M labels."""
    images, labels = (read_idx(folder / name) for name in FILES[split])
    if images.ndim != 3 or labels.shape != images.shape[:1] or labels.max(initial=0) >= len(CLASSES):
        raise DataInvalid(
            f"{folder / FILES[split][0]} and {FILES[split][1]} do not belong together", hint="fetch the four files anew"
        )
    return images, [int(label) for label in labels]


def read_idx(path: Path) -> np.ndarray:
    """The uint8 array in a gzipped IDX file; raises DataInvalid if it is damaged."""
    try:
        data = gzip.decompress(path.read_bytes())
        kind, dimensions = struct.unpack_from(">HBB", data)[1:]
        shape = struct.unpack_from(f">{dimensions}I", data, 4)
        if kind != 0x08:  # unsigned bytes
            raise ValueError("its values are not bytes")
        return np.frombuffer(data, np.uint8, offset=4 + 4 * dimensions).reshape(shape)
    except (OSError, EOFError, ValueError, struct.error) as error:
        raise DataInvalid(f"{path} is no IDX file: {error}", hint="delete it and run the command again") from error
