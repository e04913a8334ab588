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
        unknown: Most likely the image shows none of the data set's classes.
        embedding: The frozen ViT's features under this data set's prompts; None if they were not asked for.
    """

    dataset: str
    version: str
    predictions: tuple[Prediction, ...]
    unknown: bool = False
    embedding: tuple[float, ...] | None = None

    @overload
    def __getitem__(self, at: int) -> Prediction: ...
    @overload
    def __getitem__(self, at: slice) -> tuple[Prediction, ...]: ...
    def __getitem__(self, at: int | slice) -> Prediction | tuple[Prediction, ...]:
        return self.predictions[at]

    def __len__(self) -> int:
        return len(self.predictions)


@dataclass(frozen=True)
class Version:
    """One bundle that is served for a data set.

    Attributes:
        share: Part of the data set's traffic, over 0 and at most 1.
        state: "ready", "loading", "unavailable" or "incompatible".
        last_error: Why it is not ready.
        size_bytes: Of its file; this and the rest are None if it does not verify.
        created: When it was trained.
        test_accuracy: Top-1 on images that training never saw, if it says so.
        age_s: Seconds since the service holds it.
    """

    digest: str
    share: float
    state: str
    last_error: str | None
    size_bytes: int | None
    num_classes: int | None
    created: str | None
    test_accuracy: float | None
    age_s: float | None


@dataclass(frozen=True)
class Dataset:
    """A data set that the service knows.

    Attributes:
        version: The bundle with the largest share.
        state: "ready" if it can be asked.
        reason: Why it cannot be asked; None where it can.
        versions: All bundles that divide its traffic, the newest first.
        previous: Digests that were served before, newest first.
        classes: Their names; empty in a list of data sets.
    """

    name: str
    version: str
    state: str
    reason: str | None
    num_classes: int
    versions: tuple[Version, ...] = ()
    previous: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Change:
    """What a change has led to. It is kept in any case; `state` says whether it is served by now.

    Attributes:
        revision: Of the index, with the change in it.
        state: "ready" or "removed" once it is served, "loading" until then, or what is wrong.
        reason: Why it is not served.
        versions: Of the data set, as far as the service serves the change.
    """

    dataset: str
    revision: int
    state: str
    reason: str | None
    versions: tuple[Version, ...]


@dataclass(frozen=True)
class Readiness:
    """Whether the service answers requests, and if not, why; true or false as a condition."""

    ready: bool
    reasons: tuple[str, ...]

    def __bool__(self) -> bool:
        return self.ready
