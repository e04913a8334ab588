"""A function over many items in threads, in order, without queueing all of them up at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor
from itertools import islice
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

WAVE = 1024  # items under way; a million waiting tasks would fill the memory before the first image is read


def in_waves(threads: Executor, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """`function` of each item, in the order of the items."""
    waiting = iter(items)
    while wave := list(islice(waiting, WAVE)):
        yield from threads.map(function, wave)
