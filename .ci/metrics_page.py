"""The tables of docs/metrics.md, from the registries themselves: `python .ci/metrics_page.py docs/metrics.md`.

Without a page it prints them.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from pathlib import Path

from prometheus_client import CollectorRegistry, Metric

from pgn.gateway.metrics import Metrics
from pgn.gateway.sync_metrics import SyncMetrics
from pgn.settings import Settings
from pgn.stages.metrics import StageMetrics

_BETWEEN_MARKS = re.compile(r"(?<=<!-- tables -->\n).*?(?=<!-- end of tables -->)", re.DOTALL)
_SUFFIX = {"counter": "_total"}


def tables() -> str:
    """A table for each writer."""
    return "\n".join(
        [
            *_table("Written by the gateway", _described(Metrics().registry)),
            *_table(
                "Written by both stages; the label `stage` is `pgn` or `vit`", _described(StageMetrics("pgn").registry)
            ),
            *_table(
                "Read from the model store's `sync.json` at each scrape, where `PGN_REMOTE` is set",
                [(family, family._labelnames) for family in SyncMetrics(Settings()).describe()],
            ),
        ]
    )


def _described(registry: CollectorRegistry) -> list[tuple[Metric, tuple[str, ...]]]:
    # The library shows the labels of a metric without values nowhere else.
    return [(collector.describe()[0], collector._labelnames) for collector in registry._collector_to_names]


def _table(heading: str, metrics: Iterable[tuple[Metric, tuple[str, ...]]]) -> Iterable[str]:
    yield from (f"## {heading}", "", "| name | type | labels | meaning |", "| --- | --- | --- | --- |")
    for metric, labels in sorted(metrics, key=lambda each: each[0].name):
        name = metric.name + _SUFFIX.get(metric.type, "")
        yield f"| `{name}` | {metric.type} | {', '.join(f'`{label}`' for label in labels)} | {metric.documentation} |"
    yield ""


def main() -> None:
    """Write the page anew, or print the tables."""
    if len(sys.argv) < 2:
        print(tables())
        return
    page = Path(sys.argv[1])
    page.write_text(_BETWEEN_MARKS.sub(lambda _: f"\n{tables()}\n", page.read_text()))


if __name__ == "__main__":
    main()
