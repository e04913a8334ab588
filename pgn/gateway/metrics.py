"""What the gateway counts, for Prometheus. Label values come from bounded sets: routes, the index, status codes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

NO_DATASET: Final = ""
"""The label of a request that asked no data set of the index; a name that a client made up is never a label."""
SEVERAL_DATASETS: Final = "several"

EXPOSITION_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
"""The content type of `Metrics.exposition`."""

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
            "pgn_request_seconds", "From a request's first byte to its answer.", "endpoint"
        )
        self.stage_seconds = self._histogram(
            "pgn_stage_seconds", "One answer of a stage, queue, retry and canaries included.", "stage"
        )
        self.decode_seconds = self._histogram("pgn_decode_seconds", "Body to pixels, queue for a thread included.")
        self.in_flight = Gauge("pgn_in_flight", "Predictions being worked on.", registry=self.registry)
        self.retries = Counter(
            "pgn_upstream_retries",
            "Second attempts at a stage that gave no answer.",
            ("stage",),
            registry=self.registry,
        )
        self.ready = Gauge("pgn_ready", "1 when both stages have answered the last canary.", registry=self.registry)
        self.datasets = Gauge("pgn_datasets", "Data sets of the index, by state.", ("state",), registry=self.registry)

    def _histogram(self, name: str, text: str, *labels: str) -> Histogram:
        return Histogram(name, text, labels, buckets=_BUCKETS, registry=self.registry)

    def exposition(self) -> bytes:
        """All values in Prometheus' text format."""
        return generate_latest(self.registry)


@contextmanager
def timed(histogram: Histogram) -> Iterator[None]:
    """Observe how long the block took, also when it raises."""
    started = time.perf_counter()
    try:
        yield
    finally:
        histogram.observe(time.perf_counter() - started)
