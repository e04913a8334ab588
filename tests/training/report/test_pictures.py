"""Images as data."""

from __future__ import annotations

import base64
import io

import numpy as np
import torch
from PIL import Image

from training.report.pictures import picture, with_attention, with_shares


def _opened(uri: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))


def test_a_picture_is_the_image() -> None:
    """Within JPEG's loss."""
    pixels = torch.full((16, 16, 3), 90, dtype=torch.uint8)
    assert picture(pixels).startswith("data:image/jpeg;base64,")
    assert np.abs(np.asarray(_opened(picture(pixels))).astype(int) - 90).max() <= 2


def test_attention_lights_up_where_it_is() -> None:
    """On a dark image, the patch in the lower right."""
    heat = torch.zeros(4, 4)
    heat[3, 3] = 1
    shown = np.asarray(_opened(with_attention(torch.zeros(32, 32, 3, dtype=torch.uint8), heat))).sum(-1)
    assert shown[28, 28] > 400
    assert shown[4, 4] < 30


def test_a_matrix_is_one_pixel_a_cell() -> None:
    """Opaque where all of a row is, clear where nothing is; a row is a class, however many images it has."""
    shown = np.asarray(_opened(with_shares(torch.tensor([[5, 0], [3, 0]]))))
    assert shown.shape == (2, 2, 4)
    assert shown[..., 3].tolist() == [[255, 0], [255, 0]]
