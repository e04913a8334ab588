"""Running out of memory as one clear line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from pgn.errors import OutOfMemory
from training.config import TrainConfig


@contextmanager
def clear_memory_errors(config: TrainConfig) -> Iterator[None]:
    """Whatever way torch or Python says that memory is used up becomes OutOfMemory; other errors pass."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:  # torch's CPU allocator has no class of its own
        if not isinstance(error, (MemoryError, torch.OutOfMemoryError)) and "allocate memory" not in str(error):
            raise
        size, parts = config.recipe.batch_size, config.accumulate
        raise OutOfMemory(
            f"no memory left for micro-batches of {size} images",
            hint="free some and run the same command again: it goes on from its last step; or take smaller ones with "
            f"another --out, e.g. --batch-size {max(2, size // 2)} --accumulate {2 * parts}",
        ) from error
