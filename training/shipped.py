"""The table of runs whose bundles are shipped, written from those bundles into a Markdown file.

What stands above the marker line in that file is written by hand and kept; everything below is replaced.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any, TypeAlias

from pgn.bundle import Manifest, read_bundle, write_atomically
from pgn.errors import UsageError
from training.config import TrainConfig
from training.data.registry import open_datasets
from training.disk import clear_disk_errors
from training.result import finished_bundle
from training.scores import top1

_Methods: TypeAlias = dict[str, list[Manifest]]  # finished runs by method, sorted by seed

MARKER = "<!-- below: written by training/shipped.py from the runs' bundles -->"


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
    methods = {method: sorted((m for m in manifests if m.method == method), key=_seed) for method in ("pgn", "iip")}
    methods = {method: found for method, found in methods.items() if found}
    first = manifests[0]
    sizes = first.metrics["split_sizes"]
    lines = [
        f"## {name}",
        "",
        f"{sizes['train']:,} training, {sizes['val']:,} validation and {sizes['test']:,} test images, "
        f"{len(first.classes)} classes, backbone {first.backbone.name} ({first.backbone.digest[:16]}). "
        "Test top-1 in %; s.e. is the standard error of the mean over the seeds.",
        "",
        *_seeds_table(methods, first.metrics["linear_probe"]),
        "",
        *_sources_table(methods, first.metrics["linear_probe"]["test"].get("by_source", {})),
        *_verdicts(methods),
        "",
        "```sh",
        *(manifest.training["command"] for found in methods.values() for manifest in found),
        "```",
        "",
    ]
    return "\n".join(lines)


def _seeds_table(methods: _Methods, probe: dict[str, Any]) -> Iterable[str]:
    seeds = sorted({_seed(manifest) for found in methods.values() for manifest in found})
    yield "| method | " + " | ".join(f"seed {seed}" for seed in seeds) + " | mean | s.e. | validation, mean |"
    yield "| --- |" + " --- |" * (len(seeds) + 3)
    for method, found in methods.items():
        by_seed = {_seed(manifest): _test(manifest) for manifest in found}
        values = [*by_seed.values()]
        cells = [
            *(f"{100 * by_seed[seed]:.2f}" if seed in by_seed else "-" for seed in seeds),
            f"{100 * mean(values):.2f}",
            f"{100 * _over_seeds(values):.2f}" if len(values) > 1 else "-",
            f"{100 * mean(top1(manifest.metrics['val']) for manifest in found):.2f}",
        ]
        yield f"| {method} | {' | '.join(cells)} |"
    test, val = (100 * top1(probe[split]) for split in ("test", "val"))
    yield f"| linear probe (C {probe['C']:g}) |{' - |' * len(seeds)} {test:.2f} | - | {val:.2f} |"


def _sources_table(methods: _Methods, probe: dict[str, float]) -> Iterable[str]:
    """For a union: how each method does on each of its sets."""
    if not probe:
        return
    yield f"Top-1 above is the mean over {' and '.join(probe)}. Each of them, mean over the seeds:"
    yield ""
    yield f"| method | {' | '.join(probe)} |"
    yield "| --- |" + " --- |" * len(probe)
    for method, found in methods.items():
        shares = [mean(m.metrics["test"]["by_source"][source] for m in found) for source in probe]
        yield f"| {method} | " + " | ".join(f"{100 * share:.2f}" for share in shares) + " |"
    yield "| linear probe | " + " | ".join(f"{100 * share:.2f}" for share in probe.values()) + " |"
    yield ""


def _verdicts(methods: _Methods) -> Iterable[str]:
    """One sentence for each rival of the PGN: by how much it is ahead, against both standard errors."""
    if "pgn" not in methods:
        return
    values = [_test(manifest) for manifest in methods["pgn"]]
    rivals = {"the linear probe": top1(methods["pgn"][0].metrics["linear_probe"]["test"])}
    if "iip" in methods:
        rivals["input-independent prompts"] = mean(_test(manifest) for manifest in methods["iip"])
    errors = {"from drawing the test images": _over_images(methods["pgn"][0])}
    if len(values) > 1:
        errors[f"over {len(values)} seeds"] = _over_seeds(values)
    for rival, theirs in rivals.items():
        lead = mean(values) - theirs
        side = "ahead of" if lead >= 0 else "behind"
        clear = "more" if abs(lead) > max(errors.values()) else "not more"
        yield f"The PGN is {100 * abs(lead):.2f} points {side} {rival}: {clear} than the standard error."
    yield f"Standard errors, in points: {', '.join(f'{100 * error:.2f} {cause}' for cause, error in errors.items())}."


def _over_images(manifest: Manifest) -> float:
    """Standard error of the accuracy, had other test images been drawn; for a union that of the mean over its sets."""
    scores = manifest.metrics["test"]
    if manifest.class_sources is None:
        return math.sqrt(scores["top1"] * (1 - scores["top1"]) / scores["images"])
    config = TrainConfig.model_validate(manifest.training["config"])
    tested = open_datasets(config.dataset, config.data_dir).test
    counts = Counter(manifest.class_sources[example.label] for example in tested)
    variances = [share * (1 - share) / counts[source] for source, share in scores["by_source"].items()]
    return math.sqrt(sum(variances)) / len(variances)


def _over_seeds(values: Sequence[float]) -> float:
    """Standard error of the mean."""
    return stdev(values) / math.sqrt(len(values))


def _seed(manifest: Manifest) -> int:
    return int(manifest.metrics["seed"])


def _test(manifest: Manifest) -> float:
    return top1(manifest.metrics["test"])
