"""A running training as Prometheus sees it: gauges on a port, so that a stalled or diverging run can raise an alert."""

from __future__ import annotations

import time

from prometheus_client import CollectorRegistry, Gauge, start_http_server
from typing_extensions import Self

from pgn.errors import PortTaken
from training.run import Progress


class TrainingMetrics:
    """Gauges at http://<this machine>:<port>/metrics while the `with` block lasts; whoever reaches it may read them.

    All addresses, since a cluster's Prometheus asks a pod by the pod's own.

    Args:
        port: 0 takes a free one; `self.port` is then that.
        steps: How many the run has.

    Raises:
        PortTaken: Another program listens there.
    """

    def __init__(self, port: int, steps: int) -> None:
        registry = CollectorRegistry()

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(f"pgn_training_{name}", text, labels, registry=registry)

        self._loss = gauge("loss", "Mean cross-entropy of the epoch so far, or of the last validation.", "split")
        self._accuracy = gauge(
            "accuracy",
            "Top-1 of the epoch so far, or of the last validation (of a union the mean over its sets), 0..1.",
            "split",
        )
        self._step = gauge("step", "Optimiser steps done.")
        self._epoch = gauge("epoch", "Epochs finished.")
        self._speed = gauge("images_per_second", "Training images a second, over the epoch so far.")
        self._rate = gauge("learning_rate", "Rate of each group of parameters, by its number.", "group")
        self._progress = gauge(
            "last_progress_timestamp_seconds", "When a step or a validation was last done, or the run began: Unix time."
        )
        self._progress.set(time.time())  # 0 would be a run that has stood still since 1970, until its first step
        gauge("planned_steps", "Optimiser steps of the whole run, unless validation stops it.").set(steps)
        try:
            self._server, self._thread = start_http_server(port, registry=registry)
        except (OSError, OverflowError) as error:
            raise PortTaken(f"metrics cannot be served on port {port}: {error}", hint="give a free one") from error
        self.port = self._server.server_port

    def step(self, progress: Progress, rates: list[float]) -> None:
        """After an optimiser step."""
        self._loss.labels("train").set(progress.loss)
        self._accuracy.labels("train").set(progress.accuracy)
        self._step.set(progress.step)
        self._speed.set(progress.images_per_second)
        for number, rate in enumerate(rates):
            self._rate.labels(str(number)).set(rate)
        self._progress.set(time.time())

    def epoch(self, progress: Progress) -> None:
        """After an epoch's validation."""
        record = progress.history[-1]
        self._loss.labels("val").set(record["val_loss"])
        self._accuracy.labels("val").set(record["val_balanced"])
        self._epoch.set(record["epoch"])
        self._progress.set(time.time())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
