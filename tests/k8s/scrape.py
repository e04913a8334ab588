"""What a running service really exports: one that has met good and bad requests, and a training."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from prometheus_client.parser import text_string_to_metric_families
from torch import nn

from pgn.gateway.keys import hash_key
from pgn.index import read_index
from pgn.store.local import LocalStore
from tests.served import Served, served
from tests.servers import call, make_settings, wait_until
from tests.toys import make_images
from training.metrics import TrainingMetrics
from training.run import Progress
from training.scores import Scores

Series = dict[str, list[dict[str, str]]]
"""Labels of each series, by the metric's name."""

TARGET_LABELS: Final = {"job": "pgn-serve", "instance": "10.0.0.1:8000", "namespace": "pgn", "pod": "pgn-serve-0"}
"""What Prometheus adds with the operator's configuration; a plain scrape adds the first two."""

_LIMITS: Final = {"administrator": "admin = true", "hasty": "rate = 0.001\nburst = 1"}
"""API keys, which are their own names, and what they may."""


@contextmanager
def watched_service(store: LocalStore, folder: Path) -> Iterator[Served]:
    """`pgn serve` with API keys over `store`, ready; nobody has asked it anything yet."""
    keys = folder / "keys.toml"
    entries = (f'[[key]]\nname = "{name}"\nsha256 = "{hash_key(name)}"\n{text}\n' for name, text in _LIMITS.items())
    keys.write_text("".join(entries))
    with served(make_settings(store.root, folder, keys=keys)) as server:
        server.wait_ready()
        yield server


def ask_good_and_bad(server: Served, store: LocalStore) -> None:
    """Requests of every kind; `store` serves flowers and pets, and lists `broken`, whose bundle does not verify."""
    (image,) = make_images(1)
    flowers = f"{server.url}/v1/datasets/flowers"
    assert ask(server, f"{flowers}/predict", image) == 200
    assert ask(server, f"{server.url}/v1/predict?datasets=flowers,pets", image) == 200
    assert ask(server, f"{flowers}/predict", b"no image") == 415
    assert ask(server, f"{server.url}/v1/datasets/broken/predict", image) == 503
    assert [ask(server, f"{flowers}/predict", image, key="hasty") for _ in range(2)] == [200, 429]
    bundle = store.bundle_path("flowers", read_index(store.root).datasets["flowers"].versions[0].digest)
    assert ask(server, flowers, bundle.read_bytes(), method="PUT") == 200  # served already
    wait_until(lambda: server.metric('pgn_prompt_drift_images{dataset="flowers"}') > 0, "the first drift", 30)


def ask(server: Served, url: str, body: bytes, *, key: str = "administrator", method: str = "POST") -> int:
    """The status of an answer."""
    return call(method, url, body, {"Authorization": f"Bearer {key}"})[0]


def whole_page(server: Served) -> str:
    """One scrape. On a busy machine TorchServe's part may come too late for a page; such a page is not taken."""
    pages = []

    def is_whole() -> bool:
        status, body = call("GET", f"{server.url}/metrics")
        pages.append(body.decode())
        return status == 200 and "\nts_queue_latency_microseconds{" in pages[-1]

    wait_until(is_whole, "a page with TorchServe's metrics", 30)
    return pages[-1]


@contextmanager
def watched_training() -> Iterator[TrainingMetrics]:
    """A training that has done a step and an epoch."""
    progress = Progress()
    with TrainingMetrics(0, steps=8) as metrics:
        progress.add_step(loss_sum=50.0, hits=5, seen=20, seconds=0.5)
        metrics.step(progress, [0.1])
        progress.close_epoch(Scores(images=4, top1=0.5, top5=1, loss=1.5, balanced=0.25), nn.Linear(1, 1), seconds=1)
        metrics.epoch(progress)
        yield metrics


def series_of(*pages: str) -> Series:
    """All series of some pages, with the labels that Prometheus adds."""
    found: Series = {}
    for page in pages:
        names = set(re.findall(r"(?m)^[a-zA-Z_:][\w:]*", page))
        for family in text_string_to_metric_families(page):
            for sample in family.samples:
                # The parser calls every counter ..._total, also those of TorchServe that are not called so.
                name = sample.name if sample.name in names else sample.name.removesuffix("_total")
                found.setdefault(name, []).append(TARGET_LABELS | sample.labels)
    return found
