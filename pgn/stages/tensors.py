"""Arrays of several rows as one tensor, and forward passes over it in pieces that fit into memory."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

MAX_SEQUENCES: Final = 256  # a request may hold many images; one forward pass over all could exhaust the memory

_log = logging.getLogger(__name__)


def stack(arrays: Sequence[NDArray[Any]], device: torch.device) -> Tensor:
    """Arrays joined along their first axis, on `device`."""
    return torch.from_numpy(np.concatenate(arrays)).to(device)


def in_pieces(forward: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    """`forward(*inputs)` over at most MAX_SEQUENCES rows at a time, and over fewer where memory is short.

    Raises:
        torch.OutOfMemoryError: There is not even room for one row.
    """
    pieces = zip(*(torch.split(tensor, MAX_SEQUENCES) for tensor in inputs), strict=True)
    return torch.cat([_forward(forward, piece) for piece in pieces])


def _forward(forward: Callable[..., Tensor], piece: tuple[Tensor, ...]) -> Tensor:
    rows = len(piece[0])
    try:
        return forward(*piece)
    except torch.OutOfMemoryError:
        if rows == 1:
            raise
    # Only here, behind the handler, is the failed pass no longer held by its error.
    _log.warning("a pass over %d rows found no memory; it is made in halves", rows)
    if piece[0].is_cuda:
        torch.cuda.empty_cache()
    half = rows // 2
    first, second = tuple(tensor[:half] for tensor in piece), tuple(tensor[half:] for tensor in piece)
    return torch.cat([_forward(forward, first), _forward(forward, second)])
