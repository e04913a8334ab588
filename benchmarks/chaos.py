"""Everything that can happen to `pgn serve`, once, under a steady load, as a table.

    python -m benchmarks.chaos

Eight clients ask all the time; every answer is compared with what both stages say in process. Seconds are from the end
of the fault (a stopped process's: when it is killed) to a ready service that answers.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.faults import FAULTS, Outcome, survive
from tests.load import BROKEN, bad_questions, good_questions
from tests.served import served
from tests.servers import make_settings
from tests.toys import make_images, make_store

DATASETS = ("flowers", "pets", "shapes")


def chaos(folder: Path) -> list[Outcome]:
    """One service through all faults, one after the other."""
    settings = make_settings(make_store(folder / "store", DATASETS).root, folder, workers=2, restart_after_s=20.0)
    images = make_images(4)
    good, bad = good_questions(settings, DATASETS, images), bad_questions(DATASETS[0], images[0])
    with served(settings) as server:
        if "listening" not in server.first_line():
            raise SystemExit("pgn serve did not start")
        outcomes = []
        for fault in FAULTS:
            server.wait_ready()
            outcomes.append(survive(server, fault, good, bad))
        return outcomes


def table(outcomes: Sequence[Outcome]) -> str:
    """The outcomes as Markdown."""
    lines = [
        "| fault | good requests | wrong | 503 | 504 | broken connections | seconds to ready | /readyz said |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for each in outcomes:
        counts = [each.statuses[status] for status in (503, 504, BROKEN)]
        cells = [each.fault, each.statuses.total(), len(each.wrong), *counts, f"{each.seconds:.1f}"]
        reasons = ", ".join(sorted(each.reasons)) or "ready"
        lines.append("| " + " | ".join(map(str, [*cells, reasons])) + " |")
    return "\n".join(lines)


def main() -> None:
    """Run it and print the table."""
    with tempfile.TemporaryDirectory() as folder:
        print(table(chaos(Path(folder))))


if __name__ == "__main__":
    main()
