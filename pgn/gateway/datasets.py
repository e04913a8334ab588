"""What is served, as one immutable object: it is read whole and swapped whole, never changed."""

from __future__ import annotations

import json
import os
import random
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal

from pgn.backbone_spec import BackboneSpec, read_spec
from pgn.bundle import Bundle
from pgn.errors import ArtefactError, BundleIncompatible, DatasetUnavailable, NotReady, RequestError
from pgn.index import Entry, Index, read_index, unknown_dataset
from pgn.message import MAX_TARGETS, HeldVersion, StageState, Target
from pgn.store.local import LocalStore

State = Literal["ready", "loading", "unavailable", "incompatible"]

_NOT_SAID_YET: Final = "the stages have not said yet that they hold it"


@dataclass(frozen=True)
class Facts:
    """What a verified bundle says of itself; its tensors are not kept.

    Attributes:
        classes: Their names.
        size_bytes: Of the bundle's file.
        created: When it was trained, as it says.
        test_accuracy: Top-1 on the images that training never saw, 0 to 1, if it says so.
        prompt_bytes: Of the prompts that it writes for one image, as they travel in a message.
        num_features: F, width of the features that its head reads.
        label_bytes: Of its longest class name, as JSON.
    """

    classes: tuple[str, ...]
    size_bytes: int
    created: str
    test_accuracy: float | None
    prompt_bytes: int
    num_features: int
    label_bytes: int


@dataclass(frozen=True)
class Version:
    """A bundle that the index names, and what became of it.

    Attributes:
        share: Of the data set's traffic.
        facts: None if the bundle does not verify.
        state: "ready" once both stages hold it, "loading" until they have said so, "incompatible" if it was trained
            for another backbone, "unavailable" for every other reason.
        reason: Why it is not ready.
        tier: Where the stages keep its weights.
        loaded_at: When the later of the two stages had loaded it, in seconds since 1970.
        file: What tells one state of its file from another, to see whether it changed.
    """

    dataset: str
    digest: str
    share: float
    facts: Facts | None
    state: State
    reason: str | None = None
    tier: Literal["device", "host"] | None = None
    loaded_at: float | None = None
    file: tuple[int, ...] | None = None

    @property
    def name(self) -> str:
        """The first 16 digits of the digest, as answers give it."""
        return self.digest[:16]

    @property
    def target(self) -> Target:
        """What a message names to ask exactly this version."""
        return Target(dataset=self.dataset, digest=self.digest)


@dataclass(frozen=True)
class Dataset:
    """A data set of the index.

    Attributes:
        versions: What the index names.
        previous: Digests that were served before, newest first.
        standing_in: Versions that the index does not name any more; they answer until one of `versions` is ready.
    """

    name: str
    versions: tuple[Version, ...]
    previous: tuple[str, ...]
    standing_in: tuple[Version, ...] = ()

    @property
    def main(self) -> Version:
        """The version with the largest share."""
        return max(self.versions, key=lambda version: version.share)

    @property
    def answering(self) -> tuple[Version, ...]:
        """The versions that requests are divided among; none if the data set cannot be asked."""
        return tuple(version for version in self.versions if version.state == "ready") or self.standing_in

    def draw(self) -> Version:
        """One of the answering versions, by their shares.

        Raises:
            NotReady: It is being loaded.
            DatasetUnavailable: None can answer; the message says why.
        """
        versions = self.answering
        if not versions:
            raise self._silence()
        if len(versions) == 1:
            return versions[0]
        return random.choices(versions, [version.share for version in versions])[0]  # noqa: S311  # no secret

    def _silence(self) -> NotReady | DatasetUnavailable:
        for version in self.versions:
            if version.state == "loading":
                return NotReady(f"data set {self.name!r} is being loaded: {version.reason}")
        return DatasetUnavailable(f"data set {self.name!r} is not available: {self.main.reason}")


@dataclass(frozen=True)
class Catalog:
    """What the index says, and what its bundles turned out to be."""

    revision: int
    backbone: BackboneSpec
    backbone_digest: str
    datasets: Mapping[str, Dataset]

    def find(self, name: str, may_ask: Callable[[str], bool] = lambda _: True) -> Dataset:
        """The data set of this name; raises UnknownDataset with the near names among those that may be asked."""
        try:
            return self.datasets[name]
        except KeyError:
            raise unknown_dataset(name, filter(may_ask, self.datasets)) from None

    def pin(self, names: Iterable[str], may_ask: Callable[[str], bool] = lambda _: True) -> tuple[Version, ...]:
        """The versions that answer this request, one for each data set named, drawn by their shares.

        Raises:
            RequestError: None, too many, or the same one twice.
            UnknownDataset: One is not in the index.
            NotReady: One is being loaded.
            DatasetUnavailable: One has no version that can answer; the message says why.
        """
        wanted = tuple(names)
        if not 1 <= len(wanted) <= MAX_TARGETS:
            raise RequestError(f"{len(wanted)} data sets are named; 1 to {MAX_TARGETS} can be asked at once")
        if len(set(wanted)) != len(wanted):
            raise RequestError("a data set is named twice")
        return tuple(self.find(name, may_ask).draw() for name in wanted)

    def any_answering(self) -> Version | None:
        """A version that can be asked, if there is one."""
        answering = (version for dataset in self.datasets.values() for version in dataset.answering)
        return next(answering, None)

    def versions(self) -> Iterable[Version]:
        """All versions of all data sets, those that stand in included."""
        for dataset in self.datasets.values():
            yield from dataset.versions
            yield from dataset.standing_in

    def after(self, states: Sequence[StageState], asked: frozenset[Target]) -> Catalog:
        """The catalog once both stages have said what they hold of `asked`."""
        heard = _Heard(self.revision, states, asked, time.time())
        return replace(self, datasets={name: heard.judge(dataset) for name, dataset in self.datasets.items()})


class _Heard:
    """What both stages said they hold, and what follows from it."""

    def __init__(self, revision: int, states: Sequence[StageState], asked: frozenset[Target], now: float) -> None:
        self._revision = revision
        self._asked = asked
        self._now = now
        self._said = [(state, {(held.dataset, held.digest): held for held in state.versions}) for state in states]

    def judge(self, dataset: Dataset) -> Dataset:
        versions = tuple(self._judge(version) for version in dataset.versions)
        states = {version.state for version in versions}
        waits = "loading" in states and "ready" not in states
        standing_in = tuple(version for version in dataset.standing_in if waits and self._is_held(version))
        return replace(dataset, versions=versions, standing_in=standing_in)

    def _held(self, version: Version) -> list[tuple[StageState, HeldVersion | None]]:
        return [(state, held.get((version.dataset, version.digest))) for state, held in self._said]

    def _is_held(self, version: Version) -> bool:
        was_asked = version.target in self._asked
        return not was_asked or all(held is not None and held.state == "ready" for _, held in self._held(version))

    def _judge(self, version: Version) -> Version:
        if version.facts is None or version.target not in self._asked:
            return version
        for state, held in self._held(version):
            if held is not None and held.state == "ready":
                continue
            if state.revision < self._revision:
                reason = f"stage {state.stage} serves revision {state.revision} of the index, not {self._revision} yet"
                return replace(version, state="loading", reason=reason, tier=None, loaded_at=None)
            if held is None and state.revision > self._revision:
                return version  # the stage is ahead of this catalog, which is about to be replaced
            reason = f"stage {state.stage}: {held.last_error if held else 'does not hold it'}"
            return replace(version, state="unavailable", reason=reason, tier=None, loaded_at=None)
        found = [held for _, held in self._held(version) if held is not None]
        return replace(
            version,
            state="ready",
            reason=None,
            tier=found[0].tier,
            loaded_at=self._now - min(held.age_s for held in found),
        )


def read_catalog(store: LocalStore, known: Catalog | None = None) -> Catalog:
    """Read the index and verify every bundle it names; one that does not verify never blocks another.

    Args:
        store: The model store.
        known: The catalog before this one: what it verified is not verified again, and what it served stands in until
            the stages hold what is new.

    Raises:
        IndexInvalid: There is no index, or it is damaged.
        BackboneInvalid: The index's backbone is not in the store.
    """
    index = read_index(store.root)
    if known is None:
        spec, digest = read_spec(store.backbone_folder(index.backbone))
    else:  # a running service keeps its backbone, whatever the index says; bundles of another are incompatible
        spec, digest = known.backbone, known.backbone_digest
    return Catalog(index.revision, spec, digest, _datasets(store, index, digest, known))


def _datasets(store: LocalStore, index: Index, backbone: str, known: Catalog | None) -> dict[str, Dataset]:
    verified = {} if known is None else {version.target: version for version in known.versions() if version.facts}
    before = {} if known is None else known.datasets

    def read(name: str, entry: Entry) -> Dataset:
        versions = []
        for named in entry.versions:
            old = verified.get(Target(dataset=name, digest=named.digest))
            versions.append(
                _once_more(old, named.share) if old else _verify(store, name, named.digest, named.share, backbone)
            )
        named_now = {version.digest for version in versions}
        is_loading = any(version.state == "loading" for version in versions)
        stand_in = before[name].answering if name in before and is_loading else ()
        return Dataset(
            name,
            tuple(versions),
            entry.previous,
            tuple(version for version in stand_in if version.digest not in named_now),
        )

    return {name: read(name, entry) for name, entry in sorted(index.datasets.items())}


def _once_more(version: Version, share: float) -> Version:
    """A verified version under a new index; a stage that refused it looks at it again."""
    if version.state == "ready":
        return replace(version, share=share)
    return replace(version, share=share, state="loading", reason=_NOT_SAID_YET)


def _verify(store: LocalStore, name: str, digest: str, share: float, backbone: str) -> Version:
    path = store.bundle_path(name, digest)
    version = Version(name, digest, share, None, "unavailable", file=file_state(path))
    try:
        bundle = store.read(name, digest, backbone=backbone)
        return replace(version, state="loading", reason=_NOT_SAID_YET, facts=_facts(bundle, path))
    except BundleIncompatible as error:
        return replace(version, state="incompatible", reason=error.message)
    except ArtefactError as error:
        return replace(version, reason=error.message)
    except OSError as error:  # its file went away while it was read
        return replace(version, reason=f"{path} cannot be read: {error.strerror}")


def _facts(bundle: Bundle, path: Path) -> Facts:
    manifest = bundle.manifest
    generator = manifest.generator
    return Facts(
        classes=manifest.classes,
        size_bytes=path.stat().st_size,
        created=manifest.created,
        test_accuracy=_test_accuracy(manifest.metrics),
        prompt_bytes=4 * generator.num_prompts * generator.embed_dim,
        num_features=manifest.head.features,
        label_bytes=max(len(json.dumps(label, ensure_ascii=False).encode()) for label in manifest.classes),
    )


def _test_accuracy(metrics: Mapping[str, Any]) -> float | None:
    test = metrics.get("test")
    accuracy = test.get("top1") if isinstance(test, Mapping) else None
    return float(accuracy) if isinstance(accuracy, (int, float)) else None


def file_state(path: Path) -> tuple[int, ...] | None:
    """What differs between two states of a file that is replaced by rename; None if there is no file."""
    try:
        found = os.stat(path)  # noqa: PTH116  # asked several times a second; pathlib adds nothing
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino, found.st_size
