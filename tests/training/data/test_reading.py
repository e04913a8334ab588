"""From a file or an array to an image."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pgn.errors import UnreadableImage
from pgn.images import decode_rgb
from tests.toys import make_images
from training.data.reading import ImageArray, ImageFile


def test_a_file_is_read_as_serving_reads_it(tmp_path: Path) -> None:
    """RGB, whatever it was."""
    (tmp_path / "image.png").write_bytes(make_images(1)[0])
    assert ImageFile(str(tmp_path / "image.png")).read().mode == "RGB"


def test_a_file_that_went_away_is_an_image_that_cannot_be_read(tmp_path: Path) -> None:
    """Skipped and counted like a damaged one, not a traceback in the middle of an epoch."""
    with pytest.raises(UnreadableImage, match=r"gone\.png cannot be read: No such file"):
        ImageFile(str(tmp_path / "gone.png")).read()


def test_a_grey_array_has_three_equal_channels() -> None:
    """Digits and clothes are grey, and a ViT reads colours."""
    image = np.asarray(ImageArray(np.arange(12, dtype=np.uint8).reshape(3, 4)).read())
    assert image.shape == (3, 4, 3)
    assert (image[..., 0] == image[..., 2]).all()
    assert image[2, 3, 1] == 11


def test_an_image_within_a_file_ends_where_the_next_one_begins(tmp_path: Path) -> None:
    """As in a tar; how long it is, and its bytes, can be asked without decoding it."""
    one, two = make_images(2)
    (tmp_path / "both").write_bytes(one + two)
    second = ImageFile(str(tmp_path / "both"), offset=len(one), length=len(two))
    assert np.array_equal(np.asarray(second.read()), np.asarray(decode_rgb(two)))
    assert (second.size(), second.part(0, second.size())) == (len(two), two)
    assert second.part(3, 5) == two[3:8]


def test_an_array_has_bytes_as_a_file_has() -> None:
    """So that pictures in memory can be told apart as files are."""
    pixels = np.arange(12, dtype=np.uint8).reshape(3, 4)
    assert (ImageArray(pixels).size(), ImageArray(pixels).part(2, 3)) == (12, b"\x02\x03\x04")
