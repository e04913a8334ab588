"""From a file or an array to an image."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pgn.errors import UnreadableImage
from tests.toys import make_images
from training.data.reading import from_array, read_file


def test_a_file_is_read_as_serving_reads_it(tmp_path: Path) -> None:
    """RGB, whatever it was."""
    (tmp_path / "image.png").write_bytes(make_images(1)[0])
    assert read_file(tmp_path / "image.png").mode == "RGB"


def test_a_file_that_went_away_is_an_image_that_cannot_be_read(tmp_path: Path) -> None:
    """Skipped and counted like a damaged one, not a traceback in the middle of an epoch."""
    with pytest.raises(UnreadableImage, match=r"gone\.png cannot be read: No such file"):
        read_file(tmp_path / "gone.png")


def test_a_grey_array_has_three_equal_channels() -> None:
    """Digits and clothes are grey, and a ViT reads colours."""
    image = np.asarray(from_array(np.arange(12, dtype=np.uint8).reshape(3, 4)))
    assert image.shape == (3, 4, 3)
    assert (image[..., 0] == image[..., 2]).all()
    assert image[2, 3, 1] == 11
