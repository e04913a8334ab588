"""How the model store's folder stands to its bucket, for Prometheus: read from `sync.json` when somebody scrapes."""

from __future__ import annotations

import time
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Metric, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from pgn.settings import Settings


class SyncMetrics(Collector):
    """What `sync.json` says; nothing without a bucket, or before the first look at it."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def describe(self) -> tuple[Metric, ...]:
        """The families, empty."""
        return self._families()

    def collect(self) -> Iterator[Metric]:
        """The families with what the file says now."""
        if self._settings.remote is None:
            return
        from pgn.store.sync import read_sync_state  # boto3 is for those who have a bucket

        state = read_sync_state(self._settings.store)
        if state is None:
            return
        age, failing, missing, revision, errors = self._families()
        if state.last_success is not None:
            age.add_metric((), max(0.0, time.time() - state.last_success))
        failing.add_metric((), float(state.error is not None))
        missing.add_metric((), len(state.failures))
        for which, number in (("wanted", state.wanted_revision), ("served", state.served_revision)):
            if number is not None:
                revision.add_metric((which,), number)
        for code, count in state.errors.items():
            errors.add_metric((code,), count)
        yield from (age, failing, missing, revision, errors)

    def _families(
        self,
    ) -> tuple[GaugeMetricFamily, GaugeMetricFamily, GaugeMetricFamily, GaugeMetricFamily, CounterMetricFamily]:
        return (
            GaugeMetricFamily(
                "pgn_sync_age_seconds", "Since the folder last said all that the bucket says.", labels=()
            ),
            GaugeMetricFamily("pgn_sync_failing", "1 while the bucket cannot be followed at all.", labels=()),
            GaugeMetricFamily(
                "pgn_sync_missing_versions", "Of the wanted revision, not to be had or refused.", labels=()
            ),
            GaugeMetricFamily(
                "pgn_sync_revision",
                'Of the bucket\'s index: "wanted" as last read, "served" as last complete in the folder.',
                labels=("which",),
            ),
            CounterMetricFamily(
                "pgn_sync_errors", "What failed since the process that syncs started, by code.", labels=("code",)
            ),
        )


def sync_exposition(settings: Settings) -> bytes:
    """The metrics of the sync in Prometheus' text format; empty without a bucket."""
    registry = CollectorRegistry()
    registry.register(SyncMetrics(settings))
    return generate_latest(registry)
