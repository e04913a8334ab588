"""Running out of memory."""

from __future__ import annotations

import platform
import subprocess
import sys
from collections.abc import Callable

import pytest
import torch

from pgn.errors import OutOfMemory
from training.config import TrainConfig
from training.memory import clear_memory_errors, clear_step_memory_errors, keep_freed_memory


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."),
        MemoryError("Unable to allocate 3.00 TiB for an array"),
    ],
)
def test_every_way_of_saying_it_becomes_one_line(error: Exception) -> None:
    """A GPU's, a CPU's and NumPy's."""
    line = r"^no memory left for the images \(take fewer\)$"
    with pytest.raises(OutOfMemory, match=line), clear_memory_errors(" for the images", hint="take fewer"):
        raise error


def test_a_really_impossible_tensor_is_told_as_well() -> None:
    """A petabyte: what torch says today, whatever it said when this was written."""
    with pytest.raises(OutOfMemory), clear_memory_errors(hint="free some"):
        torch.empty(2**50, dtype=torch.uint8)


def test_other_errors_stay_what_they_are() -> None:
    """A bug is no lack of memory."""
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"), clear_memory_errors(hint="free some"):
        torch.zeros(2, 3) @ torch.zeros(2, 3)


def test_a_step_that_does_not_fit_says_which_options_make_it_smaller(make_config: Callable[..., TrainConfig]) -> None:
    """A wider with block that has words of its own does not talk over it."""
    asked = "no memory left for micro-batches of 25 images .* --batch-size 12 --accumulate 2"
    with (
        pytest.raises(OutOfMemory, match=asked),
        clear_memory_errors(hint="free some"),
        clear_step_memory_errors(make_config()),
    ):
        raise MemoryError


_COUNT_FAULTS = """
import resource, sys, torch
from training.memory import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
torch.set_num_threads(1)
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def step():
    return [torch.ones(2**24) for _ in range(2)]
for _ in range(5):
    step()
before = faults()
for _ in range(5):
    step()
print(faults() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be told")
def test_a_step_takes_the_memory_of_the_one_before() -> None:
    """Pages that go back to the kernel are cleared before they come again; 128 MB a step here, in pages of 4 kB."""

    def count(how: str) -> int:
        run = subprocess.run([sys.executable, "-c", _COUNT_FAULTS, how], capture_output=True, text=True, check=True)
        return int(run.stdout)

    assert count("keep") < count("give back") / 2


def test_asking_twice_is_harmless() -> None:
    """Several runs of one process, as in a grid."""
    assert keep_freed_memory() == keep_freed_memory()
