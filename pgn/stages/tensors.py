"""Arrays of several rows as one tensor, and forward passes over it in pieces that fit into memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

MAX_SEQUENCES: Final = 256  # a request may hold many images; one forward pass over all could exhaust the memory


def stack(arrays: Sequence[NDArray[Any]], device: torch.device) -> Tensor:
    """Arrays joined along their first axis, on `device`."""
    return torch.from_numpy(np.concatenate(arrays)).to(device)


def in_pieces(forward: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    """`forward(*inputs)` over at most MAX_SEQUENCES rows at a time."""
    pieces = zip(*(torch.split(tensor, MAX_SEQUENCES) for tensor in inputs), strict=True)
    return torch.cat([forward(*piece) for piece in pieces])
