"""What the stages count, for Prometheus. Label values come from bounded sets: stages, error codes, data sets served."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any, Final, Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

import pgn

if TYPE_CHECKING:  # both come with torch, which who only lists metrics need not have
    from pgn.stages.bank import Snapshot
    from pgn.stages.drift import Drift

_SECONDS: Final = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
_ROWS: Final = (1, 2, 4, 8, 12, 16, 24, 32, 64)

Asked = Literal["prediction", "canary", "state", "unreadable"]


class StageMetrics:
    """One stage's metrics with a registry of their own.

    Args:
        stage: The label of all of them.
    """

    def __init__(self, stage: Literal["pgn", "vit"]) -> None:
        self.registry = CollectorRegistry()
        self._stage = stage
        self._drifting: set[str] = set()
        self._rows = Counter(
            "pgn_stage_rows",
            "Rows of batches: requests' messages, the gateway's canaries, its questions for the state. "
            'The outcome is "ok" or the error\'s code.',
            ("stage", "asked", "outcome"),
            registry=self.registry,
        )
        self._images = Counter("pgn_stage_images", "Images of requests.", ("stage",), registry=self.registry)
        self._batch_rows = self._histogram(
            "pgn_stage_batch_rows", "Rows of a batch that holds a request or a canary.", buckets=_ROWS
        )
        self._batch_seconds = self._histogram(
            "pgn_stage_batch_seconds", "Work on such a batch, from its rows' bytes to its answers' bytes."
        )
        self._queue_seconds = self._histogram(
            "pgn_stage_queue_seconds",
            "From a row's first sending to the start of its batch: TorchServe's queue, the wait for a batch to form, "
            "and what a lost attempt took.",
        )
        self._revision = self._gauge("pgn_stage_index_revision", "Of the index that the stage serves.", "livemin")
        self._versions = self._gauge(
            "pgn_bank_versions",
            'Versions of data sets: "ready", "refused", or "leaving" (not in the index any more, held for a grace).',
            "livemostrecent",
            "state",
        )
        self._bytes = self._gauge(
            "pgn_bank_bytes",
            'Tensors of the versions held, on a GPU ("device") or mapped from the store ("host").',
            "livesum",
            "tier",
        )
        self._loads = Counter(
            "pgn_bank_loads",
            'Bundles loaded, by outcome: "ok" or the code of the refusal.',
            ("stage", "outcome"),
            registry=self.registry,
        )
        self._load_seconds = self._histogram(
            "pgn_bank_load_seconds", "Reading, verifying and building one bundle, off the request path."
        )
        self._info = self._gauge(
            "pgn_stage_info",
            "1; versions, the frozen ViT's digest and the device.",
            "livemax",
            *("version", "torch", "torchserve", "backbone", "device"),
        )
        self._drift = self._drift_gauge(
            "pgn_prompt_drift",
            "Jensen-Shannon distance, 0 to 1, of the recent token usage from that of the training images.",
        )
        self._drift_noise = self._drift_gauge(
            "pgn_prompt_drift_noise", "The drift to expect of as many images like the training images."
        )
        self._drift_images = self._drift_gauge("pgn_prompt_drift_images", "Recent images that the drift rests on.")

    def _gauge(
        self, name: str, text: str, mode: Literal["livemax", "livemin", "livemostrecent", "livesum"], *labels: str
    ) -> Gauge:
        return Gauge(name, text, ("stage", *labels), registry=self.registry, multiprocess_mode=mode)

    def _drift_gauge(self, name: str, text: str) -> Gauge:
        return Gauge(name, text, ("dataset",), registry=self.registry, multiprocess_mode="livemostrecent")

    def _histogram(self, name: str, text: str, buckets: Sequence[float] = _SECONDS) -> Histogram:
        return Histogram(name, text, ("stage",), registry=self.registry, buckets=buckets)

    def runs(self, *, backbone: str, device: str) -> None:
        """The stage has loaded the backbone of this digest, and computes there."""
        torch, torchserve = _version_of("torch"), _version_of("torchserve")
        self._info.labels(self._stage, pgn.__version__, torch, torchserve, backbone[:16], device).set(1)

    def loaded(self, outcome: str, seconds: float) -> None:
        """A bundle was read: "ok", or the code of what is wrong with it."""
        self._loads.labels(self._stage, outcome).inc()
        self._load_seconds.labels(self._stage).observe(seconds)

    def serves(self, snapshot: Snapshot[Any], tier: Literal["device", "host"]) -> None:
        """The stage serves another snapshot."""
        named = {(name, each.digest) for name, entry in snapshot.index.datasets.items() for each in entry.versions}
        leaving = len(snapshot.held.keys() - named)
        counts = {"ready": len(snapshot.held) - leaving, "refused": len(snapshot.refused), "leaving": leaving}
        for state, count in counts.items():
            self._versions.labels(self._stage, state).set(count)
        self._bytes.labels(self._stage, tier).set(sum(held.bytes for held in snapshot.held.values()))
        self._revision.labels(self._stage).set(snapshot.index.revision)

    def answered(
        self,
        rows: Sequence[tuple[Asked, str]],
        *,
        images: int,
        seconds: float,
        queued_s: Sequence[float],
    ) -> None:
        """A batch was answered.

        Args:
            rows: What each asked, and its outcome: "ok" or an error's code.
            images: Of its requests.
            seconds: That it took.
            queued_s: How long rows had been on their way, of those that say when they were sent.
        """
        for asked, outcome in rows:
            self._rows.labels(self._stage, asked, outcome).inc()
        if any(asked != "state" for asked, _ in rows):
            self._batch_rows.labels(self._stage).observe(len(rows))
            self._batch_seconds.labels(self._stage).observe(seconds)
        if images:
            self._images.labels(self._stage).inc(images)
        for each in queued_s:
            self._queue_seconds.labels(self._stage).observe(each)

    def drifts(self, drift: Mapping[str, Drift]) -> None:
        """How far each data set has moved; those that are not named are shown no more."""
        for dataset in self._drifting - drift.keys():
            for gauge in (self._drift, self._drift_noise, self._drift_images):
                gauge.labels(dataset).set(math.nan)
        for dataset, found in drift.items():
            self._drift.labels(dataset).set(found.distance)
            self._drift_noise.labels(dataset).set(found.noise)
            self._drift_images.labels(dataset).set(found.images)
        self._drifting = set(drift)


def _version_of(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
