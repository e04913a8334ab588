"""Images as data URIs: as the frozen ViT sees them, under a heat map, and a large matrix as one pixel a cell."""

from __future__ import annotations

import base64
import io

import matplotlib as mpl
import numpy as np
from PIL import Image
from torch import Tensor

_ACCENT = (59, 130, 196)
_MOST_HEAT = 0.85  # opacity of the heat map where attention is highest


def picture(pixels: Tensor) -> str:
    """The (S, S, 3) uint8 square as a JPEG data URI."""
    return _jpeg(Image.fromarray(pixels.numpy()))


def with_attention(pixels: Tensor, attention: Tensor) -> str:
    """The (S, S, 3) uint8 square, grey, under the (g, g) attention in 0..1 as a heat map."""
    image = Image.fromarray(pixels.numpy()).convert("L").convert("RGB")
    heat = Image.fromarray(attention.float().numpy()).resize(image.size, Image.Resampling.BILINEAR)
    shares = np.clip(np.asarray(heat), 0, 1)
    colours = mpl.colormaps["inferno"](shares)[..., :3] * 255
    opacity = (_MOST_HEAT * np.sqrt(shares))[..., None]  # the root shows low attention too
    mixed = np.asarray(image) * (1 - opacity) + colours * opacity
    return _jpeg(Image.fromarray(mixed.astype(np.uint8)))


def with_shares(counts: Tensor) -> str:
    """The (C, C) counts as a PNG data URI of C x C pixels: opacity is the share of the row."""
    shares = counts / counts.sum(1, keepdim=True).clamp(min=1)
    pixels = np.empty((*counts.shape, 4), np.uint8)
    pixels[..., :3] = _ACCENT
    pixels[..., 3] = (255 * np.sqrt(shares.numpy())).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", optimize=True)
    return _uri("image/png", buffer.getvalue())


def _jpeg(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=85)
    return _uri("image/jpeg", buffer.getvalue())


def _uri(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"
