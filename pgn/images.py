"""Bytes to pixels: the one way from an encoded image to the RGB square that PGN and backbone see.

Training, gateway, client and stage 1 all come through here, so a picture means the same pixels everywhere. Guards
come before decoding: a hostile header costs no memory. Pillow and NumPy only.
"""

from __future__ import annotations

import io
import logging
import struct
import warnings
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError

from pgn.errors import EmptyBody, ImageTooLarge, NotAnImage, PromptedImageInvalid, UnreadableImage

Interpolation = Literal["bilinear", "bicubic"]
Pixels = NDArray[np.uint8]

DEFAULT_MAX_PIXELS: Final = 50_000_000

# First bytes of each format read here; telling "no image" (415) from "a damaged one" (422) needs nothing more.
_SIGNATURES: Final = {
    "PNG": (b"\x89PNG\r\n\x1a\n",),
    "JPEG": (b"\xff\xd8\xff",),
    "GIF": (b"GIF87a", b"GIF89a"),
    "WEBP": (b"RIFF",),  # and "WEBP" at byte 8: RIFF alone may be sound or film
    "BMP": (b"BM",),
    "TIFF": (b"II*\x00", b"MM\x00*"),
    "PPM": (b"P1", b"P2", b"P3", b"P4", b"P5", b"P6"),
}
_FORMATS: Final = tuple(_SIGNATURES)  # JPEG's reader also takes MPO, what many phones write into a .jpg
_RESAMPLING: Final = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
_UPRIGHT: Final = {  # what undoes each orientation of EXIF
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# What Pillow's readers raise on damaged files: numbers cut short or too large, offsets into nowhere, unknown codes.
_DAMAGED: Final = (OSError, SyntaxError, ValueError, EOFError, LookupError, TypeError, ArithmeticError, MemoryError,
                   struct.error)  # fmt: skip

# Our own limit is checked on the header, before Pillow decodes, and damage that Pillow can live with is no news to a
# server: its warnings, and the errors that its TIFF reader logs before it raises them, would only add noise to the log.
logging.getLogger("PIL.TiffImagePlugin").setLevel(logging.CRITICAL)
warnings.simplefilter("ignore", Image.DecompressionBombWarning)
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")


def read_square(
    data: bytes, size: int, *, interpolation: Interpolation, max_pixels: int = DEFAULT_MAX_PIXELS
) -> Pixels:
    """Decode one image as a person would see it, scaled and cropped to a square.

    The shorter side is scaled to `size`, then the centre is cropped: the arithmetic of torchvision's
    `Resize(size)` + `CenterCrop(size)` on Pillow images, done in one resampling, so that a very long image costs no
    more than a square one.

    Args:
        data: One encoded image (PNG, JPEG, WebP, GIF, BMP, TIFF, PPM).
        size: Side of the result in pixels.
        interpolation: Resampling filter; it belongs to the backbone.
        max_pixels: Largest width times height that is decoded.

    Returns:
        (size, size, 3) uint8 RGB. Transparency lies on white, 16 bits become 8, EXIF rotation is applied, of an
        animation the first frame is taken.

    Raises:
        EmptyBody, NotAnImage, UnreadableImage, ImageTooLarge.
    """
    return fit_square(decode_rgb(data, max_pixels=max_pixels), size, interpolation)


def read_prompted(data: bytes, size: int) -> Pixels:
    """Decode an image that carries its prompts as rows of pixels below a square; not one pixel is changed.

    Scaling, cropping and lossy compression destroy prompts, so nothing is repaired: what is not exactly such an image
    is refused.

    Args:
        data: A PNG without transparency, 8 bits a channel.
        size: Side of the backbone's square in pixels.

    Returns:
        (size + R, size, 3) uint8 RGB with 0 <= R <= size; whether R is whole patches is for the backbone to say.

    Raises:
        EmptyBody, UnreadableImage, PromptedImageInvalid.
    """
    if data and not data.startswith(_SIGNATURES["PNG"]):
        raise PromptedImageInvalid(f"the bytes start with {data[:8]!r} and are no PNG; other formats change pixels")
    image = decode_rgb(data, max_pixels=DEFAULT_MAX_PIXELS)
    width, height = image.size
    if width != size or not size <= height <= 2 * size:
        raise PromptedImageInvalid(
            f"the image is {width} x {height} pixels; the backbone reads {size} x {size} and up to {size} rows below it"
        )
    return np.asarray(image, dtype=np.uint8)


def decode_rgb(data: bytes, *, max_pixels: int = DEFAULT_MAX_PIXELS) -> Image.Image:
    """The upright 8-bit RGB image in `data`; raises as `read_square` does."""
    if not data:
        raise EmptyBody("the image has 0 bytes")
    known = any(data.startswith(start) for starts in _SIGNATURES.values() for start in starts)
    if not known or (data.startswith(b"RIFF") and data[8:12] != b"WEBP"):
        raise NotAnImage(f"the bytes start with {data[:8]!r}, which is no image format read here")
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            width, height = image.size
            if width * height > max_pixels:
                raise ImageTooLarge(f"the image is {width} x {height} pixels; the limit is {max_pixels:,} pixels")
            image.load()
            return _to_rgb(_upright(image))
    except Image.DecompressionBombError as error:
        raise ImageTooLarge(f"the image is over the limit of {max_pixels:,} pixels") from error
    except UnidentifiedImageError as error:  # its own text names an object in memory
        raise UnreadableImage("the image cannot be decoded: what follows its first bytes is no such format") from error
    except _DAMAGED as error:
        raise UnreadableImage(f"the image cannot be decoded: {str(error) or type(error).__name__}") from error


def _upright(image: Image.Image) -> Image.Image:
    """The image as EXIF or XMP says that it is to be seen.

    Pillow's own `exif_transpose` also writes the whole EXIF block anew, which fails on tags of an unusual type.
    """
    method = _UPRIGHT.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    return image if method is None else image.transpose(method)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F":
        raise UnreadableImage("the image has floating-point pixels", hint="save it with 8 or 16 bits a channel")
    if image.mode.startswith("I"):  # 16-bit grey; keep the high byte
        values = np.asarray(image).clip(0, 65535)
        grey = (values >> 8).astype(np.uint8)
        if isinstance(transparent := image.info.get("transparency"), int):
            grey[values == transparent] = 255
        return Image.fromarray(grey).convert("RGB")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, "white")
        return Image.alpha_composite(white, layer).convert("RGB")
    return image.convert("RGB")


def fit_square(image: Image.Image, size: int, interpolation: Interpolation) -> Pixels:
    """Scale the shorter side of an RGB image to `size` and crop the centre; (size, size, 3) uint8."""
    width, height = image.size
    short = min(width, height)
    scaled_width, scaled_height = (int(size * side / short) for side in (width, height))
    left, top = (round((side - size) / 2.0) for side in (scaled_width, scaled_height))
    x, y = width / scaled_width, height / scaled_height  # source pixels for one scaled pixel
    box = (left * x, top * y, min((left + size) * x, width), min((top + size) * y, height))
    square = image.resize((size, size), _RESAMPLING[interpolation], box=box)
    return np.asarray(square, dtype=np.uint8)
