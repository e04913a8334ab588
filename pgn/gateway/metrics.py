"""What the gateway counts, for Prometheus. Label values come from bounded sets: routes, the index, status codes, keys.

Several workers write; /metrics of any of them shows all (pgn/shared_metrics.py). For that each gauge says how values of
several processes become one: the slowest, the worst, the sum, or whatever was seen last.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, Literal, get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

import pgn
from pgn.gateway.upstream import Stage
from pgn.shared_metrics import exposition

NO_DATASET: Final = ""
"""The label of a request that asked no data set of the index; a name that a client made up is never a label."""
SEVERAL_DATASETS: Final = "several"
PREDICTIONS: Final = ("predict", "predict_several", "predict_prompted")
"""The end points that answer predictions: the service's objectives are about these."""

Outcome = Literal["ok", "refused", "failed"]

# Half a millisecond to the deadline's order of magnitude; a lone request takes about 6 ms on a CPU.
_BUCKETS: Final = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)


class Metrics:
    """The gateway's metrics with a registry of their own, so that two gateways can live in one process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "pgn_requests",
            "Requests answered, by HTTP status.",
            ("endpoint", "dataset", "code"),
            registry=self.registry,
        )
        self.request_seconds = self._histogram(
            "pgn_request_seconds",
            'From a request\'s first byte to its answer. The outcome is "ok", "refused" (4xx, or the client left) '
            'or "failed" (5xx).',
            *("endpoint", "outcome"),
        )
        self.stage_seconds = self._histogram(
            "pgn_stage_seconds", "One answer of a stage, queue, retry and canaries included.", "stage"
        )
        self.decode_seconds = self._histogram("pgn_decode_seconds", "Body to pixels, queue for a thread included.")
        self.in_flight = self._gauge("pgn_in_flight", "Predictions being worked on.", "livesum")
        self.in_flight_limit = self._gauge(
            "pgn_in_flight_limit", "Predictions worked on at once; more are answered 503.", "livesum"
        )
        self.errors = Counter(
            "pgn_errors",
            "Requests answered with an error, by its code: who is refused for what.",
            ("code",),
            registry=self.registry,
        )
        self.retries = Counter(
            "pgn_upstream_retries",
            "Second attempts at a stage.",
            ("stage",),
            registry=self.registry,
        )
        self.lost_replies = Counter(
            "pgn_lost_replies",
            "Second attempts because no answer came, as when a worker is killed while its batch forms.",
            ("stage",),
            registry=self.registry,
        )
        self.usage_images = Counter(
            "pgn_usage_images",
            "Images answered, by API key.",
            ("key", "dataset"),
            registry=self.registry,
        )
        self.throttled = Counter(
            "pgn_throttled_requests", "Requests answered 429, by API key.", ("key",), registry=self.registry
        )
        self.key_reloads = Counter(
            "pgn_key_reloads",
            "Changes of the file of API keys that were read, or failed to be.",
            ("outcome",),
            registry=self.registry,
        )
        self.ready = self._gauge(
            "pgn_ready", "1 when both stages have answered the last canary, whichever worker sent it.", "livemin"
        )
        self.faults = self._gauge("pgn_fault", "1 while this fault lasts.", "livemax", "code")
        self.torchserve_up = self._gauge(
            "pgn_torchserve_up", "1 when TorchServe's management answered the last look.", "livemostrecent"
        )
        self.torchserve_threads = self._gauge(
            "pgn_torchserve_threads", "Threads of TorchServe's JVM.", "livemostrecent"
        )
        self.torchserve_rss = self._gauge(
            "pgn_torchserve_rss_bytes", "Resident memory of TorchServe's JVM.", "livemostrecent"
        )
        self.torchserve_restarts = Counter(
            "pgn_torchserve_restarts",
            "Times that TorchServe had forgotten the workflow, as every restart makes it.",
            registry=self.registry,
        )
        self.index_revision = self._gauge(
            "pgn_index_revision", "Of the index that the gateway has read; of several workers the lowest.", "livemin"
        )
        self.follow_errors = Counter(
            "pgn_follow_errors",
            "Looks at the index, or questions to the stages for what they hold, that failed.",
            ("whom",),
            registry=self.registry,
        )
        self.audit_errors = Counter(
            "pgn_audit_errors", "Acts that could not be written to the audit log.", registry=self.registry
        )
        self.info = self._gauge(
            "pgn_gateway_info",
            "1; the gateway's version and the frozen ViT's digest.",
            "livemax",
            "version",
            "backbone",
        )
        self.changes = Counter(
            "pgn_changes", "Administrative changes, by what came of them.", ("act", "outcome"), registry=self.registry
        )
        self.datasets = self._gauge("pgn_datasets", "Data sets of the index, by state.", "livemostrecent", "state")
        self._begin_at_zero()

    def _begin_at_zero(self) -> None:
        """Show what alerts count before it happens: a rate never sees the event with which its series appears."""
        for endpoint in PREDICTIONS:
            for outcome in get_args(Outcome):
                self.request_seconds.labels(endpoint, outcome)
        for stage in get_args(Stage):
            self.retries.labels(stage)
            self.lost_replies.labels(stage)
        for whom in ("index", "stages"):
            self.follow_errors.labels(whom)

    def _histogram(self, name: str, text: str, *labels: str) -> Histogram:
        return Histogram(name, text, labels, buckets=_BUCKETS, registry=self.registry)

    def _gauge(
        self, name: str, text: str, mode: Literal["livemax", "livemin", "livemostrecent", "livesum"], *labels: str
    ) -> Gauge:
        return Gauge(name, text, labels, registry=self.registry, multiprocess_mode=mode)

    def runs(self, *, backbone: str, max_in_flight: int) -> None:
        """A gateway of the frozen ViT with this digest accepts so many predictions at once."""
        self.info.labels(pgn.__version__, backbone[:16]).set(1)
        self.in_flight_limit.set(max_in_flight)

    def answered(self, endpoint: str, dataset: str, status: int, seconds: float) -> None:
        """A request was answered with this HTTP status; 0 if it had no answer at all."""
        self.requests.labels(endpoint, dataset, str(status)).inc()
        self.request_seconds.labels(endpoint, _outcome_of(status)).observe(seconds)

    def exposition(self) -> bytes:
        """All values in Prometheus' text format, those of the stages and the other workers too if they are shared."""
        return exposition(self.registry)


def _outcome_of(status: int) -> Outcome:
    if 400 <= status < 500:
        return "refused"
    return "ok" if 0 < status < 400 else "failed"


@contextmanager
def timed(histogram: Histogram) -> Iterator[None]:
    """Observe how long the block took, also when it raises."""
    started = time.perf_counter()
    try:
        yield
    finally:
        histogram.observe(time.perf_counter() - started)
