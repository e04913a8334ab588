"""Memory: kept between the steps of a run, and running out of it as one clear line."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Final

import torch

from pgn.errors import OutOfMemory
from training.config import TrainConfig

# glibc's <malloc.h>
_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_MAX: Final = -4


def keep_freed_memory() -> bool:
    """Let the C library keep what a step's tensors free for those of the next step.

    By default glibc hands large blocks back to the kernel, which clears every page before it gives it out again
    (measured in docs/training.md). Freed memory stays with the process then; its peak does not change.

    Returns:
        Whether the C library could be told; others than glibc are left as they are.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(_M_MMAP_MAX, 0) and mallopt(_M_TRIM_THRESHOLD, 2**31 - 1))


@contextmanager
def clear_memory_errors(where: str = "", *, hint: str) -> Iterator[None]:
    """Whatever way torch or Python says that memory is used up becomes OutOfMemory; other errors pass.

    Args:
        where: What it was wanted for, if that is known: words after "no memory left".
        hint: What to do.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:  # torch's CPU allocator has no class of its own
        if not isinstance(error, (MemoryError, torch.OutOfMemoryError)) and "allocate memory" not in str(error):
            raise
        raise OutOfMemory(f"no memory left{where}", hint=hint) from error


def clear_step_memory_errors(config: TrainConfig) -> AbstractContextManager[None]:
    """The same for a step, whose images can be asked for in smaller parts."""
    size, parts = config.recipe.batch_size, config.accumulate
    return clear_memory_errors(
        f" for micro-batches of {size} images",
        hint="free some and run the same command again: it goes on from its last step; or take smaller ones with "
        f"another --out, e.g. --batch-size {max(2, size // 2)} --accumulate {2 * parts}",
    )
