"""The whole service for a while: many requests at once, some of them bad, against the real `pgn serve`.

    python -m benchmarks.soak [--requests 20000] [--clients 32] [--store model_store]

Every good answer is compared with what both stages say in process, every bad request has to get its own status. Prints
what was answered, and the threads and memory of all processes at three moments: a leak shows between the last two.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from pgn.index import read_index
from pgn.settings import Settings
from tests.load import Load, bad_questions, good_questions
from tests.served import Served, served
from tests.servers import make_settings
from tests.toys import make_images

WARM_UP = 1000
NUM_IMAGES = 16


@dataclass(frozen=True)
class Footprint:
    """What a process takes: its threads, its resident memory, and its share of the memory that it has with others."""

    threads: int
    rss_mb: float
    pss_mb: float


Footprints = dict[str, Footprint]


@dataclass(frozen=True)
class Soaked:
    """What came of it; footprints after the warm-up, in the middle and at the end."""

    statuses: Counter[int]
    bad_statuses: Counter[int]
    wrong: Sequence[str]
    seconds: float
    footprints: tuple[Footprints, Footprints, Footprints]


def soak(settings: Settings, *, requests: int, clients: int) -> Soaked:
    """Ask `requests` questions after a warm-up, one in fifty of them bad."""
    datasets = sorted(read_index(settings.store).datasets)
    images = make_images(NUM_IMAGES, 96)
    good, bad = good_questions(settings, datasets, images), bad_questions(datasets[0], images[0])
    statuses: Counter[int] = Counter()
    bad_statuses: Counter[int] = Counter()
    wrong: list[str] = []

    def ask(count: int) -> None:
        load = Load(server.url, good, bad, clients=clients)
        load.run(count)
        statuses.update(load.statuses)
        bad_statuses.update(load.bad_statuses)
        wrong.extend(load.wrong)

    with served(settings) as server:
        if "listening" not in server.first_line():
            raise SystemExit("pgn serve did not start")
        ask(WARM_UP)
        first = footprints(server)
        began = time.monotonic()
        ask(requests // 2)
        second = footprints(server)
        ask(requests - requests // 2)
        seconds = time.monotonic() - began
        third = footprints(server)
        server.process.terminate()
        if server.process.wait(60) != 0 or server.family():
            raise SystemExit("pgn serve did not end well")
    return Soaked(statuses, bad_statuses, wrong, seconds, (first, second, third))


def footprints(server: Served) -> Footprints:
    """What each process of a service takes."""
    found = {"pgn serve": _measure(psutil.Process(server.process.pid)), "gateway": _measure(server.find("pgn.gateway"))}
    found["JVM"] = _measure(server.find("ModelServer"))
    for stage in ("pgn", "vit"):
        if worker := server.worker(stage):
            found[f"stage {stage}"] = _measure(worker)
    return found


def _measure(process: psutil.Process) -> Footprint:
    memory = process.memory_full_info()
    return Footprint(process.num_threads(), memory.rss / 2**20, memory.pss / 2**20)


def table(soaked: Soaked) -> str:
    """The result as Markdown."""
    total = soaked.statuses.total() + soaked.bad_statuses.total()
    lines = [
        f"{total:,} requests ({WARM_UP:,} to warm up), {soaked.seconds:.0f} s",
        "",
        f"good: {dict(sorted(soaked.statuses.items()))}, bad: {dict(sorted(soaked.bad_statuses.items()))}, "
        f"wrong: {len(soaked.wrong)}",
        "",
        "| process | threads | RSS, MB | PSS, MB |",
        "| --- | --- | --- | --- |",
    ]
    for name in soaked.footprints[0]:
        moments = [each[name] for each in soaked.footprints]
        threads = " → ".join(str(each.threads) for each in moments)
        rss = " → ".join(f"{each.rss_mb:.0f}" for each in moments)
        pss = " → ".join(f"{each.pss_mb:.0f}" for each in moments)
        lines.append(f"| {name} | {threads} | {rss} | {pss} |")
    sums = " → ".join(f"{sum(each.pss_mb for each in moment.values()):.0f}" for moment in soaked.footprints)
    return "\n".join([*lines, f"| all | | | {sums} |"])


def main() -> None:
    """Run it and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--store", type=Path, default=Path("model_store"))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        settings = make_settings(options.store, Path(folder))
        soaked = soak(settings, requests=options.requests, clients=options.clients)
    print(table(soaked))
    for line in soaked.wrong[:10]:
        print(line)
    raise SystemExit(bool(soaked.wrong))


if __name__ == "__main__":
    main()
