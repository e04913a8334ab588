"""Two processes that hold the same bundles hold them once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from benchmarks.bank import make_bundle

BUNDLES = 30

_HOLD = """
import sys
from pathlib import Path
from pgn.bundle import read_bundle
from pgn.method.{module} import {load} as load

def tell_memory():
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    print(next(1024 * int(line.split()[1]) for line in lines if line.startswith("Pss:")), flush=True)
    input()

first, *others = sorted(Path(sys.argv[1]).iterdir())
held = [load(read_bundle(first))]
tell_memory()
held += [load(read_bundle(path)) for path in others]
tell_memory()
tell_memory()  # by now the other process holds them, too
"""


def test_both_stages_share_one_copy_of_every_bundle(tmp_path: Path) -> None:
    """Five hundred bundles fit where five hundred times two copies would not.

    What is left is the price of Python's modules around the weights, a tenth of a bundle.
    """
    made = [make_bundle(tmp_path, f"set-{number:03d}", "ab" * 32, seed=number) for number in range(BUNDLES)]
    size = sum(path.stat().st_size for path in sorted(made)[1:])
    pipe = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    parts = [{"module": "generator", "load": "load_generator"}, {"module": "head", "load": "load_head"}]
    stages = [subprocess.Popen([sys.executable, "-c", _HOLD.format(**part), tmp_path], **pipe) for part in parts]
    try:
        alone, _, together = (tell_all(stages) for _ in range(3))
    finally:
        for stage in stages:
            stage.communicate("\n\n\n", timeout=60)
    assert size < together - alone < 1.2 * size


def tell_all(stages: list[subprocess.Popen[str]]) -> int:
    """Summed memory of all at one point, from which all go on together."""
    told = []
    for stage in stages:
        assert stage.stdout is not None
        told.append(int(stage.stdout.readline()))
    for stage in stages:
        assert stage.stdin is not None
        stage.stdin.write("\n")
        stage.stdin.flush()
    return sum(told)
