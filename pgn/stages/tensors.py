"""Arrays of several rows as one tensor, and forward passes over it in pieces that fit into memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pgn.backbone_spec import Preprocess

MAX_SEQUENCES: Final = 256  # a request may hold many images; one forward pass over all could exhaust the memory


def stack(arrays: Sequence[NDArray[Any]], device: torch.device) -> Tensor:
    """Arrays joined along their first axis, on `device`."""
    return torch.from_numpy(np.concatenate(arrays)).to(device)


def normalise(pixels: Tensor, preprocess: Preprocess) -> Tensor:
    """(B, S, S, 3) uint8 -> (B, 3, S, S) float32, as `FrozenBackbone.normalise` does, without holding a backbone."""
    mean, std = (
        torch.tensor(values, device=pixels.device).view(1, 3, 1, 1) for values in (preprocess.mean, preprocess.std)
    )
    return (pixels.permute(0, 3, 1, 2).float() / 255 - mean) / std


def in_pieces(forward: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    """`forward(*inputs)` over at most MAX_SEQUENCES rows at a time."""
    pieces = zip(*(torch.split(tensor, MAX_SEQUENCES) for tensor in inputs), strict=True)
    return torch.cat([forward(*piece) for piece in pieces])
