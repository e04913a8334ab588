"""dSprites and small NORB in miniature."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
import pytest

from training.data.named.structured import AZIMUTHS, DSPRITES, ELEVATIONS, SMALL_NORB, dsprites, read_matrix, small_norb


@pytest.mark.parametrize(("latent", "values"), [(3, 40), (4, 32)])
def test_dsprites_groups_neighbouring_values_into_sixteen_classes(latent: int, values: int, tmp_path: Path) -> None:
    """VTAB's orientation has 40 values, its position 32; the white of the shapes becomes 255."""
    latents = np.zeros((values * 20, 6), np.int64)
    latents[:, latent] = np.arange(values * 20) % values
    pictures = np.ones((values * 20, 4, 4), np.uint8)
    np.savez(tmp_path / DSPRITES, imgs=pictures, latents_classes=latents)
    found = dsprites(tmp_path, latent=latent, values=values, name="turn {}")
    examples = [*found.train, *(found.val or ()), *found.test]
    assert found.classes[15] == "turn 15"
    assert len(found.test) == len(found.val or ()) == values * 2
    for example in examples:
        value = latents[int(example.name.removeprefix("all/")), latent]
        assert example.label == int(value // (values / 16))
    assert np.asarray(examples[0].read()).max() == 255


def _write_matrix(path: Path, array: np.ndarray) -> None:
    magic = 0x1E3D4C55 if array.dtype == np.uint8 else 0x1E3D4C54
    shape = [*array.shape, 1, 1][: max(3, array.ndim)]
    path.write_bytes(np.array([magic, array.ndim, *shape], "<i4").tobytes() + array.tobytes())


@pytest.fixture
def norb(tmp_path: Path) -> np.ndarray:
    """Small NORB with one training and two test pictures of each elevation and azimuth; gives the training pictures."""
    poses = np.array([[0, elevation, azimuth, 0] for elevation, azimuth in product(range(9), range(0, 36, 2))], "<i4")
    for split, repeats in (("training", 1), ("testing", 2)):
        info = np.repeat(poses, repeats, axis=0)
        pictures = np.random.default_rng(0).integers(0, 256, (len(info), 2, 6, 6), dtype=np.uint8)
        _write_matrix(tmp_path / f"{SMALL_NORB[split]}-info.mat", info)
        _write_matrix(tmp_path / f"{SMALL_NORB[split]}-dat.mat", pictures)
        if split == "training":
            trained = pictures
    return trained


@pytest.mark.parametrize(
    ("column", "step", "classes", "label"), [(1, 1, ELEVATIONS, 1), (2, 2, AZIMUTHS, 2)], ids=["elevation", "azimuth"]
)
def test_norb_reads_pose_and_the_left_picture(
    column: int, step: int, classes: tuple[str, ...], label: int, norb: np.ndarray, tmp_path: Path
) -> None:
    """Picture 20 stands at elevation 1 and azimuth 4, which is the third of its eighteen values."""
    found = small_norb(tmp_path, column=column, step=step, classes=classes)
    assert found.train[20].label == label
    assert np.array_equal(np.asarray(found.train[20].read())[..., 0], norb[20, 0])


def test_half_of_norbs_test_pictures_validate(norb: np.ndarray, tmp_path: Path) -> None:
    """Its test toys are not its training toys, and VTAB chooses on toys like those it tests on."""
    found = small_norb(tmp_path, column=1, step=1, classes=ELEVATIONS)
    val, test = ({e.name for e in part} for part in (found.val or (), found.test))
    assert (len(val), len(test)) == (162, 162)
    assert not val & test


def test_another_file_is_no_matrix(tmp_path: Path) -> None:
    """A compressed copy, for one."""
    (tmp_path / "x.mat").write_bytes(b"\x1f\x8b" + bytes(20))
    with pytest.raises(ValueError, match=r"x\.mat is no matrix of small NORB"):
        read_matrix(tmp_path / "x.mat")
