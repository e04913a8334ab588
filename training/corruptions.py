"""Common corruptions of images at three strengths: noise, blur, weather and digital faults, on uint8 squares.

The kinds and their numbers are those of ImageNet-C at severities 1, 3 and 5, with lengths in pixels scaled from its
224 px to the square's side, and the code is our own. Of its fifteen kinds `frost` is left out: it needs photographs
of ice. What is random is drawn from sample, kind and strength alone, so every method sees the same corrupted pixels.

Source: Hendrycks and Dietterich, "Benchmarking Neural Network Robustness to Common Corruptions and Perturbations",
ICLR 2019.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from typing import Final, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter, map_coordinates, zoom
from scipy.signal import oaconvolve

STRENGTHS: Final = (1, 2, 3)
SIDE: Final = 224  # in pixels; what ImageNet-C's lengths are meant for

Floats: TypeAlias = NDArray[np.float64]  # (S, S, 3) in 0..1
_Value = TypeVar("_Value")
Corruption: TypeAlias = Callable[[Floats, int, np.random.Generator], Floats]
"""An image, a strength from 1, and the source of chance -> the image, perhaps outside 0..1."""


def corrupt(pixels: NDArray[np.uint8], kind: str, strength: int, *, sample: int) -> NDArray[np.uint8]:
    """The (S, S, 3) square, corrupted; always the same for the same four.

    Args:
        pixels: RGB.
        kind: A key of CORRUPTIONS.
        strength: One of STRENGTHS.
        sample: Number of the image in its split.
    """
    rng = np.random.default_rng((sample, [*CORRUPTIONS].index(kind), strength))
    changed = CORRUPTIONS[kind](pixels / 255.0, strength, rng)
    return np.rint(np.clip(changed, 0, 1) * 255).astype(np.uint8)


def _gaussian_noise(image: Floats, strength: int, rng: np.random.Generator) -> Floats:
    return image + rng.normal(scale=_of(strength, 0.08, 0.18, 0.38), size=image.shape)


def _shot_noise(image: Floats, strength: int, rng: np.random.Generator) -> Floats:
    photons = _of(strength, 60, 12, 3)
    return rng.poisson(image * photons) / photons


def _impulse_noise(image: Floats, strength: int, rng: np.random.Generator) -> Floats:
    """Single values of single pixels jump to black or white."""
    hit = rng.random(image.shape) < _of(strength, 0.03, 0.09, 0.27)
    return np.where(hit, rng.integers(0, 2, image.shape), image)


def _defocus_blur(image: Floats, strength: int, _: np.random.Generator) -> Floats:
    """Every point becomes a disc, as out of focus."""
    length, softness = _of(strength, (3, 0.1), (6, 0.5), (10, 0.5))
    radius = _scaled(image, length)
    reach = int(np.ceil(radius)) + 1
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    disc = np.clip(radius + 0.5 - np.hypot(x, y), 0, 1)  # anti-aliased rim
    return _convolve(image, gaussian_filter(disc, softness))


def _glass_blur(image: Floats, strength: int, rng: np.random.Generator) -> Floats:
    """Pixels trade places with near ones, between two blurs, as behind frosted glass."""
    sigma, reach, rounds = _of(strength, (0.7, 1, 2), (1.0, 2, 3), (1.5, 4, 2))
    sigma = _scaled(image, sigma)
    reach = max(1, round(_scaled(image, reach)))
    side = len(image)
    y, x = np.mgrid[:side, :side]
    image = _blur(image, sigma)
    for _ in range(rounds):
        dy, dx = rng.integers(-reach, reach + 1, (2, side, side))
        image = image[np.clip(y + dy, 0, side - 1), np.clip(x + dx, 0, side - 1)]
    return _blur(image, sigma)


def _motion_blur(image: Floats, strength: int, rng: np.random.Generator) -> Floats:
    """A smear along a line at up to 45 degrees from level, strongest at its start."""
    length, sigma = _of(strength, (10, 3), (15, 8), (20, 15))
    return _convolve(image, _line_kernel(_scaled(image, length), _scaled(image, sigma), rng.uniform(-45, 45)))


def _zoom_blur(image: Floats, strength: int, _: np.random.Generator) -> Floats:
    """The mean of the image at growing magnifications, as from a camera that moves ahead."""
    furthest, step = _of(strength, (1.11, 0.01), (1.21, 0.02), (1.31, 0.03))
    views = [image, *(_magnified(image, factor) for factor in np.arange(1 + step, furthest, step))]
    return np.mean(views, axis=0)


def _snow(image: Floats, strength: int, rng: np.random.Generator) -> Floats:
    """Flakes drawn out by the wind, over a whitened image."""
    mean, spread, size, threshold, length, sigma, share = _of(
        strength,
        (0.1, 0.3, 3.0, 0.5, 10, 4, 0.8),
        (0.55, 0.3, 4.0, 0.9, 12, 8, 0.7),
        (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
    )
    flakes = _magnified(rng.normal(mean, spread, (*image.shape[:2], 1)), size)
    flakes = np.clip(np.where(flakes < threshold, 0, flakes), 0, 1)
    flakes = _convolve(flakes, _line_kernel(_scaled(image, length), _scaled(image, sigma), rng.uniform(-135, -45)))
    whitened = np.maximum(image, image.mean(-1, keepdims=True) * 1.5 + 0.5)
    return share * image + (1 - share) * whitened + flakes + flakes[::-1, ::-1]


def _fog(image: Floats, strength: int, rng: np.random.Generator) -> Floats:
    """Clouds of a self-similar surface."""
    density, smoothness = _of(strength, (1.5, 2.0), (2.5, 1.7), (3.0, 1.4))
    peak = image.max()
    clouds = _plasma(len(image), smoothness, rng)[..., None]
    return (image + density * clouds) * peak / (peak + density)


def _brightness(image: Floats, strength: int, _: np.random.Generator) -> Floats:
    """The value of hue, saturation and value rises: all channels in proportion."""
    value = image.max(-1, keepdims=True)
    raised = np.clip(value + _of(strength, 0.1, 0.3, 0.5), 0, 1)
    return np.where(value > 0, image * raised / np.maximum(value, 1e-9), raised)


def _contrast(image: Floats, strength: int, _: np.random.Generator) -> Floats:
    middle = image.mean((0, 1), keepdims=True)
    return (image - middle) * _of(strength, 0.4, 0.2, 0.05) + middle


def _elastic(image: Floats, strength: int, rng: np.random.Generator) -> Floats:
    """A rubber sheet: a random affine pull, and waves where they are strong (severity 1) or fine (5)."""
    alpha, sigma, pull = _of(strength, (488, 170.8, 24.4), (12.2, 2.44, 4.88), (29.28, 2.44, 4.88))
    side = len(image)
    alpha, sigma, pull = _scaled(image, alpha), _scaled(image, sigma), _scaled(image, pull)
    corners = np.array([[1 / 3, 1 / 3], [2 / 3, 1 / 3], [1 / 3, 2 / 3]]) * side
    moved = corners + rng.uniform(-pull, pull, corners.shape)
    matrix = np.linalg.solve(np.c_[moved, np.ones(3)], corners)  # (3, 2): where a pixel of the result comes from
    waves = [_blur(rng.uniform(-1, 1, (side, side, 1)), sigma)[..., 0] * alpha for _ in range(2)]
    y, x = np.mgrid[:side, :side]
    rows, columns = (np.stack([y, x, np.ones_like(y)], -1) @ matrix).transpose(2, 0, 1)
    places = [rows + waves[0], columns + waves[1]]
    return np.stack([map_coordinates(image[..., c], places, order=1, mode="reflect") for c in range(3)], -1)


def _pixelate(image: Floats, strength: int, _: np.random.Generator) -> Floats:
    small = max(1, round(len(image) * _of(strength, 0.6, 0.4, 0.25)))
    picture = _picture(image).resize((small, small), Image.Resampling.BOX)
    return np.asarray(picture.resize(image.shape[1::-1], Image.Resampling.NEAREST)) / 255.0


def _jpeg(image: Floats, strength: int, _: np.random.Generator) -> Floats:
    buffer = io.BytesIO()
    _picture(image).save(buffer, "JPEG", quality=_of(strength, 25, 15, 7))
    return np.asarray(Image.open(buffer)) / 255.0


CORRUPTIONS: Final[dict[str, Corruption]] = {
    "gaussian_noise": _gaussian_noise,
    "shot_noise": _shot_noise,
    "impulse_noise": _impulse_noise,
    "defocus_blur": _defocus_blur,
    "glass_blur": _glass_blur,
    "motion_blur": _motion_blur,
    "zoom_blur": _zoom_blur,
    "snow": _snow,
    "fog": _fog,
    "brightness": _brightness,
    "contrast": _contrast,
    "elastic_transform": _elastic,
    "pixelate": _pixelate,
    "jpeg_compression": _jpeg,
}


def _of(strength: int, *values: _Value) -> _Value:
    """The strength's value."""
    return values[strength - 1]


def _scaled(image: Floats, length: float) -> float:
    """A length in ImageNet-C's pixels as one in this image's."""
    return length * len(image) / SIDE


def _picture(image: Floats) -> Image.Image:
    return Image.fromarray(np.rint(image * 255).astype(np.uint8))


def _blur(image: Floats, sigma: float) -> Floats:
    return gaussian_filter(image, (sigma, sigma, 0), mode="reflect")


def _convolve(image: Floats, kernel: Floats) -> Floats:
    """With the kernel scaled to sum 1, the image mirrored beyond its edges; keeps the shape."""
    reach = max(kernel.shape) // 2
    padded = np.pad(image, ((reach, reach), (reach, reach), (0, 0)), mode="symmetric")
    return oaconvolve(padded, kernel[..., None] / kernel.sum(), mode="same", axes=(0, 1))[reach:-reach, reach:-reach]


def _line_kernel(length: float, sigma: float, degrees: float) -> Floats:
    """(n, n), n odd: a line from the centre outwards that fades like a Gaussian, at this angle."""
    reach = int(np.ceil(length))
    kernel = np.zeros((2 * reach + 1, 2 * reach + 1))
    steps = np.linspace(0, length, 4 * reach + 1)
    weights = np.exp(-(steps**2) / (2 * sigma**2))
    y, x = steps * np.sin(np.deg2rad(degrees)), steps * np.cos(np.deg2rad(degrees))
    np.add.at(kernel, (np.rint(y).astype(int) + reach, np.rint(x).astype(int) + reach), weights)
    return kernel


def _magnified(image: Floats, factor: float) -> Floats:
    """The image's middle, enlarged to the image's size."""
    side = len(image)
    kept = int(np.ceil(side / factor))
    start = (side - kept) // 2
    middle = image[start : start + kept, start : start + kept]
    enlarged = zoom(middle, (side / kept, side / kept, 1), order=1)
    return enlarged[:side, :side]


def _plasma(side: int, smoothness: float, rng: np.random.Generator) -> Floats:
    """(side, side) in 0..1: noise of every wavelength, octave by octave weaker by `smoothness`."""
    octaves: Sequence[int] = range(1, max(2, int(np.ceil(np.log2(side))) + 1))
    clouds = np.zeros((side, side))
    for octave in octaves:
        cells = 2**octave + 1
        coarse = rng.uniform(-1, 1, (cells, cells)) / smoothness**octave
        places = np.linspace(0, cells - 1, side)
        clouds += map_coordinates(coarse, np.meshgrid(places, places, indexing="ij"), order=1)
    clouds -= clouds.min()
    return clouds / clouds.max()
