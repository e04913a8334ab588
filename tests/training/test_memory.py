"""Running out of memory."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from pgn.errors import OutOfMemory
from training.config import TrainConfig
from training.memory import clear_memory_errors


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."),
        MemoryError("Unable to allocate 3.00 TiB for an array"),
    ],
)
def test_every_way_of_saying_it_becomes_one_line(make_config: Callable[..., TrainConfig], error: Exception) -> None:
    """A GPU's, a CPU's and NumPy's."""
    with pytest.raises(OutOfMemory, match="no memory left"), clear_memory_errors(make_config()):
        raise error


def test_a_really_impossible_tensor_is_told_as_well(make_config: Callable[..., TrainConfig]) -> None:
    """A petabyte: what torch says today, whatever it said when this was written."""
    with pytest.raises(OutOfMemory), clear_memory_errors(make_config()):
        torch.empty(2**50, dtype=torch.uint8)


def test_other_errors_stay_what_they_are(make_config: Callable[..., TrainConfig]) -> None:
    """A bug is no lack of memory."""
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"), clear_memory_errors(make_config()):
        torch.zeros(2, 3) @ torch.zeros(2, 3)
