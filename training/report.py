"""The table of finished runs, written from their bundles into a Markdown file.

What stands above the marker line in that file is written by hand and kept; everything below is replaced.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from pgn.bundle import Manifest, read_bundle, write_atomically
from pgn.errors import UsageError
from training.disk import clear_disk_errors
from training.run import finished_bundle

MARKER = "<!-- below: written by training/report.py from the runs' bundles -->"


def write_report(runs: Sequence[Path], out: Path) -> None:
    """Put the results of all finished runs among these folders into the Markdown file `out`.

    Raises:
        UsageError: None of them is finished.
    """
    bundles = [read_bundle(bundle).manifest for folder in sorted(runs) if (bundle := finished_bundle(folder))]
    if not bundles:
        raise UsageError("none of these folders holds a finished run", hint="give the --out folders of `pgn train`")
    by_set: dict[str, list[Manifest]] = {}
    for manifest in bundles:
        by_set.setdefault(manifest.dataset, []).append(manifest)
    words = out.read_text().partition(MARKER)[0] if out.exists() else "# Results\n\n"
    sections = [_section(name, manifests) for name, manifests in by_set.items()]
    with clear_disk_errors(out.parent):
        out.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(out, (words + MARKER + "\n\n" + "\n".join(sections)).encode())


def _section(name: str, manifests: Sequence[Manifest]) -> str:
    methods = {method: [m for m in manifests if m.method == method] for method in ("pgn", "iip")}
    methods = {method: sorted(found, key=_seed) for method, found in methods.items() if found}
    seeds = sorted({_seed(manifest) for manifest in manifests})
    first = manifests[0]
    sizes = first.metrics["split_sizes"]
    lines = [
        f"## {name}",
        "",
        f"{sizes['train']:,} training, {sizes['val']:,} validation and {sizes['test']:,} test images, "
        f"{len(first.classes)} classes, backbone {first.backbone.name} ({first.backbone.digest[:16]}). "
        "Test top-1 in %; s.e. is the standard error of the mean over the seeds.",
        "",
        "| method | " + " | ".join(f"seed {seed}" for seed in seeds) + " | mean | s.e. | validation, mean |",
        "| --- |" + " --- |" * (len(seeds) + 3),
    ]
    for method, found in methods.items():
        by_seed = {_seed(manifest): _test(manifest) for manifest in found}
        cells = [f"{100 * by_seed[seed]:.2f}" if seed in by_seed else "-" for seed in seeds]
        values = [*by_seed.values()]
        error = f"{100 * _standard_error(values):.2f}" if len(values) > 1 else "-"
        val = mean(_balanced(manifest.metrics["val"]) for manifest in found)
        lines.append(f"| {method} | {' | '.join(cells)} | {100 * mean(values):.2f} | {error} | {100 * val:.2f} |")
    probe = first.metrics["linear_probe"]
    test, val = (100 * _balanced(probe[split]) for split in ("test", "val"))
    lines.append(f"| linear probe (C {probe['C']:g}) | {' | '.join('-' for _ in seeds)} | {test:.2f} | - | {val:.2f} |")
    if sources := first.metrics["test"].get("by_source"):
        lines += ["", f"Top-1 here is the mean over {' and '.join(sources)}; each of them, mean over the seeds:", ""]
        lines += [*_by_source(methods, list(sources), probe["test"]["by_source"])]
    lines += ["", *_verdicts(methods, sizes["test"]), "", "```sh"]
    lines += [manifest.training["command"] for found in methods.values() for manifest in found]
    return "\n".join([*lines, "```", ""])


def _by_source(methods: dict[str, list[Manifest]], sources: Sequence[str], probe: dict[str, float]) -> Iterable[str]:
    yield "| method | " + " | ".join(sources) + " |"
    yield "| --- |" + " --- |" * len(sources)
    for method, found in methods.items():
        shares = [mean(m.metrics["test"]["by_source"][source] for m in found) for source in sources]
        yield f"| {method} | " + " | ".join(f"{100 * share:.2f}" for share in shares) + " |"
    yield "| linear probe | " + " | ".join(f"{100 * probe[source]:.2f}" for source in sources) + " |"


def _verdicts(methods: dict[str, list[Manifest]], test_images: int) -> Iterable[str]:
    """One sentence for each rival of the PGN: by how much it is ahead, against both standard errors."""
    if "pgn" not in methods:
        return
    values = [_test(manifest) for manifest in methods["pgn"]]
    rivals = {"the linear probe": _balanced(methods["pgn"][0].metrics["linear_probe"]["test"])}
    if "iip" in methods:
        rivals["input-independent prompts"] = mean(_test(manifest) for manifest in methods["iip"])
    over_seeds = _standard_error(values) if len(values) > 1 else 0.0
    share = mean(values)
    over_images = math.sqrt(share * (1 - share) / test_images)
    for rival, theirs in rivals.items():
        lead = share - theirs
        side = "ahead of" if lead >= 0 else "behind"
        clear = "more" if abs(lead) > max(over_seeds, over_images) else "not more"
        yield (
            f"The PGN is {100 * abs(lead):.2f} points {side} {rival}: {clear} than the larger of the standard error "
            f"over {len(values)} seed(s), {100 * over_seeds:.2f}, and of drawing {test_images:,} test images, "
            f"{100 * over_images:.2f}."
        )


def _seed(manifest: Manifest) -> int:
    return int(manifest.metrics["seed"])


def _test(manifest: Manifest) -> float:
    return _balanced(manifest.metrics["test"])


def _balanced(scores: dict[str, Any]) -> float:
    return float(scores.get("balanced", scores["top1"]))


def _standard_error(values: Sequence[float]) -> float:
    return stdev(values) / math.sqrt(len(values))
