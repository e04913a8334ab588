"""Images as a training step takes them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode, RandomResizedCrop, Resize

from tests.toys import picture
from training.data.dataset import Example
from training.data.frames import Frames, stretched, strip

EXAMPLES = [Example(str(number), 0, picture(number)) for number in range(4)]


def _noise(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8))


@pytest.mark.parametrize(("width", "height"), [(60, 40), (40, 60), (90, 30), (31, 97), (50, 49), (41, 41)])
def test_a_stretched_image_is_that_of_the_authors_transform(width: int, height: int) -> None:
    """Torchvision's random crop of the whole area, whose draws fail; a part is lost of very long images alone."""
    torch.manual_seed(0)
    theirs = RandomResizedCrop(32, scale=(1.0, 1.0), interpolation=InterpolationMode.BICUBIC)
    image = _noise(width, height)
    assert np.array_equal(stretched(image, 32), np.asarray(theirs(image)))


@pytest.mark.parametrize(("width", "height", "shape"), [(60, 40, (32, 48, 3)), (40, 60, (48, 32, 3))])
def test_a_strip_holds_the_whole_image(width: int, height: int, shape: tuple[int, ...]) -> None:
    """As the authors scale CLEVR's scenes before they crop them."""
    image = _noise(width, height)
    assert strip(image, 32).shape == shape
    assert np.array_equal(strip(image, 32), np.asarray(Resize(32)(image)))


def _counting(seen: list[bytes], *, keep: bool) -> Frames:
    def frame(image: Image.Image) -> np.ndarray:
        seen.append(image.tobytes())
        return np.asarray(image)

    return Frames(EXAMPLES, frame, keep=keep)


def test_an_image_that_was_asked_for_ahead_is_decoded_once() -> None:
    """Also if a step draws it twice, as of a small set in a union, and the next step again."""
    seen: list[bytes] = []
    frames = _counting(seen, keep=False)
    now, then = torch.tensor([3, 1, 3]), torch.tensor([1, 2])
    frames.prefetch(now)
    frames.prefetch(then)
    assert [frame[0, :, 0].tolist() for frame in frames.take(now)] == [[0, 3], [0, 1], [0, 3]]
    assert sorted(seen) == sorted(set(seen))
    assert [frame[0, :, 0].tolist() for frame in frames.take(then)] == [[0, 1], [0, 2]]


@pytest.mark.parametrize("keep", [True, False])
def test_what_is_kept_is_decoded_once_in_all_epochs(keep: bool) -> None:
    """And what is not kept once in each."""
    seen: list[bytes] = []
    frames = _counting(seen, keep=keep)
    for _ in range(3):
        frames.take(torch.arange(4))
    assert len(seen) == (4 if keep else 12)
