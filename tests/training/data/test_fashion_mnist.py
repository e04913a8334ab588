"""Fashion-MNIST's files are found, read and checked."""

from __future__ import annotations

import errno
import gzip
import struct
from pathlib import Path

import numpy as np
import pytest

from pgn.errors import DataInvalid, DiskFull, SetupError
from training.data import fashion_mnist as module
from training.data.fashion_mnist import FILES, fashion_mnist, find_files, read_idx


def _write_idx(path: Path, array: np.ndarray) -> None:
    header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
    path.write_bytes(gzip.compress(header + array.tobytes()))


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy with twenty pictures of each class to train on and one to test."""
    for split, each in (("train", 20), ("test", 1)):
        labels = np.repeat(np.arange(10, dtype=np.uint8), each)
        _write_idx(tmp_path / FILES[split][0], np.full((len(labels), 28, 28), 7, np.uint8))
        _write_idx(tmp_path / FILES[split][1], labels)
    return tmp_path


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine without a copy and without a network."""
    monkeypatch.setattr(module, "DEBIAN_FOLDER", Path("nowhere"))
    monkeypatch.setattr(module, "_fetch_debian_package", lambda target: None)
    monkeypatch.setattr(module, "_fetch_with_torchvision", lambda target: None)


def test_the_official_test_split_is_kept(copy: Path) -> None:
    """Validation is a tenth of the official training images; the test images stay the official ones."""
    dataset = fashion_mnist(copy)
    assert (len(dataset.train), len(dataset.val), len(dataset.test)) == (180, 20, 10)


def test_a_copy_in_a_sub_folder_of_the_data_folder_is_found(copy: Path) -> None:
    """data/fashion-mnist is where a fetched copy is put."""
    (copy.parent / "data").mkdir()
    copy.rename(copy.parent / "data" / "fashion-mnist")
    assert find_files(copy.parent / "data").name == "fashion-mnist"


@pytest.mark.usefixtures("offline")
def test_without_a_copy_or_a_network_the_message_tells_every_way_out(tmp_path: Path) -> None:
    """One line that names the files, the package and the flag."""
    with pytest.raises(DataInvalid) as caught:
        fashion_mnist(tmp_path)
    for word in (str(tmp_path), "t10k-labels-idx1-ubyte.gz", "apt install dataset-fashion-mnist", "--data-dir"):
        assert word in str(caught.value)


@pytest.mark.usefixtures("offline")
def test_a_data_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    """A file of that name, for one; nothing is downloaded first."""
    (tmp_path / "data").write_text("")
    with pytest.raises(SetupError, match=r"data/fashion-mnist cannot be written: Not a directory \(choose another"):
        fashion_mnist(tmp_path / "data")


def test_a_full_disk_is_one_line_too(copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The download went well, and the copy does not fit."""

    def fill(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module, "DEBIAN_FOLDER", Path("nowhere"))
    monkeypatch.setattr(module, "_fetch_debian_package", lambda target: module._copy_files(copy, target))
    monkeypatch.setattr(module, "write_atomically", fill)
    with pytest.raises(DiskFull, match=r"no room left to write into .*elsewhere/fashion-mnist"):
        fashion_mnist(tmp_path / "elsewhere")


def test_a_package_without_the_files_is_passed_over(tmp_path: Path) -> None:
    """The next way is tried."""
    module._copy_files(tmp_path / "nothing", tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_damaged_file_is_named(copy: Path) -> None:
    """A download cut short is not trained on."""
    file = copy / FILES["train"][0]
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(DataInvalid, match=r"train-images-idx3-ubyte\.gz is no IDX file"):
        read_idx(file)


def test_labels_of_another_file_are_refused(copy: Path) -> None:
    """Mixed-up files would train on noise without any error."""
    (copy / FILES["test"][1]).write_bytes((copy / FILES["train"][1]).read_bytes())
    with pytest.raises(DataInvalid, match="do not belong together"):
        fashion_mnist(copy)
