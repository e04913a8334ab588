"""What the client hands back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import overload


@dataclass(frozen=True)
class Prediction:
    """A class and its calibrated probability."""

    label: str
    probability: float


@dataclass(frozen=True)
class Result(Sequence[Prediction]):
    """The classes one data set's PGN sees in an image, most probable first; a sequence of them.

    Attributes:
        dataset: Who was asked.
        version: The bundle that answered.
        predictions: At most `top_k`.
    """

    dataset: str
    version: str
    predictions: tuple[Prediction, ...]

    @overload
    def __getitem__(self, at: int) -> Prediction: ...
    @overload
    def __getitem__(self, at: slice) -> tuple[Prediction, ...]: ...
    def __getitem__(self, at: int | slice) -> Prediction | tuple[Prediction, ...]:
        return self.predictions[at]

    def __len__(self) -> int:
        return len(self.predictions)


@dataclass(frozen=True)
class Dataset:
    """A data set that the service knows.

    Attributes:
        reason: Why it cannot be asked; None where it can.
        classes: Their names; empty in a list of data sets.
    """

    name: str
    version: str
    state: str
    reason: str | None
    num_classes: int
    classes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Readiness:
    """Whether the service answers requests, and if not, why; true or false as a condition."""

    ready: bool
    reasons: tuple[str, ...]

    def __bool__(self) -> bool:
        return self.ready
