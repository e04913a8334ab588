"""Bundles and the linear probe under common corruptions: `python -m training.robustness BUNDLE... --out FOLDER`.

Every bundle of a data set, and the probe, are asked about the same corrupted test images. They were trained on clean
ones.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from pgn.bundle import Bundle, read_bundle, write_atomically
from pgn.errors import PgnError, UsageError
from pgn.method.head import Head
from pgn.method.predictor import Predictor
from training.compare.summary import PROBE
from training.config import TrainConfig, moved
from training.corruptions import CORRUPTIONS, STRENGTHS, corrupt
from training.data.images import Images, load_split
from training.disk import clear_disk_errors
from training.features import EVAL_BATCH
from training.records import as_csv
from training.result import finished_bundle
from training.run import config_of_bundle
from training.setting import prepare

CLEAN = "clean"
_OTHER = "give --data-dir with the images that it was trained on"
_OF_A_SEED = {"seed", "out", "name", "data_dir", "cache", "backbone", "start_from"}  # may differ where a mean is taken


@dataclass(frozen=True)
class Measured:
    """Top-1 (0..1) on test images of one kind of corruption; strength 0 for the clean ones. The probe has no seed."""

    dataset: str
    method: str
    seed: int | None
    kind: str
    strength: int
    images: int
    top1: float


def measure(
    bundles: Sequence[Path], *, backbone: Path | None = None, data_dir: Path | None = None, most: int | None = None
) -> list[Measured]:
    """Ask these bundles, and for each data set the linear probe, about clean and corrupted test images.

    Args:
        bundles: Bundle files, of any data sets.
        backbone: Folder of the frozen ViT, if it has moved.
        data_dir: Folder of the images, if they have moved.
        most: Ask about at most so many images of a set, drawn at random, always the same.

    Raises:
        UsageError: No image is asked about; a bundle does not say how it was trained; two of one method differ in more
            than the seed; or the images have other classes by now.
        PgnError: What reading bundles, backbone and images raises.
    """
    if most is not None and most < 1:
        raise UsageError(f"{most} images cannot be asked about", hint="give --most 1 or more")
    by_images: dict[tuple[object, ...], list[Bundle]] = {}  # what the probe is fitted on, too
    by_method: dict[tuple[object, ...], TrainConfig] = {}
    for path in bundles:
        bundle = read_bundle(path)
        config = config_of_bundle(bundle)
        images = (config.dataset, bundle.manifest.backbone.digest, config.limit, config.limit_val, config.fraction)
        by_images.setdefault(images, []).append(bundle)
        first = by_method.setdefault((config.dataset, config.method), config)
        if differing := _differing(first, config):
            raise UsageError(
                f"{path} differs from {first.out} in {', '.join(differing)}: no mean is taken over these",
                hint="ask about them one after the other",
            )
    return [
        each
        for found in by_images.values()
        for each in _measure_set(moved(config_of_bundle(found[0]), backbone=backbone, data_dir=data_dir), found, most)
    ]


def _differing(one: TrainConfig, other: TrainConfig) -> list[str]:
    names = [name for name in TrainConfig.model_fields if name not in _OF_A_SEED]
    return [name for name in names if getattr(one, name) != getattr(other, name)]


@torch.inference_mode()
def _measure_set(config: TrainConfig, bundles: Sequence[Bundle], most: int | None) -> Iterable[Measured]:
    """Of bundles that share the images and the backbone of this config."""
    setting = prepare(config)
    for bundle in bundles:
        if bundle.manifest.classes != setting.dataset.classes:
            raise UsageError(f"{bundle.version} knows other classes than {setting.dataset.name} has", hint=_OTHER)
    images = load_split(setting.dataset, "test", setting.backbone.spec.preprocess)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    chosen = order[:most].sort().values
    predictors = [Predictor(setting.backbone, bundle) for bundle in bundles]
    probe = setting.probe.head().to(setting.device)
    views = [(CLEAN, 0), *((kind, strength) for kind in CORRUPTIONS for strength in STRENGTHS)]
    for kind, strength in tqdm(views, desc=setting.dataset.name, unit="view", disable=not sys.stderr.isatty()):
        hits = torch.zeros(1 + len(predictors))
        for part in chosen.split(EVAL_BATCH):
            pixels = _view(images, part, kind, strength)
            hits += torch.tensor(_hits(pixels, images.labels[part], predictors, probe))
        for top1, manifest in zip((hits / len(chosen)).tolist(), [None, *(b.manifest for b in bundles)], strict=True):
            yield Measured(
                dataset=setting.dataset.name,
                method=manifest.method if manifest else PROBE,
                seed=manifest.metrics.get("seed") if manifest else None,
                kind=kind,
                strength=strength,
                images=len(chosen),
                top1=top1,
            )


def _view(images: Images, part: Tensor, kind: str, strength: int) -> Tensor:
    """(B, S, S, 3) uint8: these images, corrupted."""
    pixels = images.pixels(part)
    if kind == CLEAN:
        return pixels
    pairs = zip(part.tolist(), pixels.numpy(), strict=True)
    return torch.from_numpy(np.stack([corrupt(square, kind, strength, sample=number) for number, square in pairs]))


def _hits(pixels: Tensor, labels: Tensor, predictors: Sequence[Predictor], probe: Head) -> list[int]:
    """Right answers of the probe, then of each bundle."""
    backbone = predictors[0].backbone
    rows = [probe(backbone(backbone.normalise(pixels)))]
    rows += [predictor.probabilities(pixels) for predictor in predictors]
    return [int((row.argmax(1).cpu() == labels).sum()) for row in rows]


def as_markdown(found: Sequence[Measured], *, command: str) -> str:
    """For each set, a table by strength and one by kind; means over seeds, in %."""
    lines = [
        "# Under corruption",
        "",
        f"Made by `{command}`. Test top-1 in %, mean over the seeds. {len(CORRUPTIONS)} kinds of ImageNet-C at its "
        "severities 1, 3 and 5, here strengths 1 to 3; nothing was trained on corrupted images.",
        "",
    ]
    for name in dict.fromkeys(each.dataset for each in found):
        here = [each for each in found if each.dataset == name]
        methods = list(dict.fromkeys(each.method for each in here))
        strengths = [f"strength {strength}" for strength in STRENGTHS]
        lines += [
            f"## {name}",
            "",
            f"{here[0].images:,} test images.",
            "",
            _line(["method", CLEAN, *strengths, "mean of all", "share kept"]),
            _line(["---"] + ["---:"] * (len(strengths) + 3)),
        ]
        for method in methods:
            mine = [each for each in here if each.method == method]
            clean = mean(each.top1 for each in mine if not each.strength)
            corrupted = [mean(e.top1 for e in mine if e.strength == strength) for strength in STRENGTHS]
            cells = [f"{100 * value:.2f}" for value in (clean, *corrupted, mean(corrupted))]
            lines.append(_line([method, *cells, f"{100 * mean(corrupted) / clean:.1f} %" if clean else "–"]))
        lines += ["", _line(["kind, mean of the strengths", *methods]), _line(["---"] + ["---:"] * len(methods))]
        for kind in CORRUPTIONS:
            values = [mean(e.top1 for e in here if (e.method, e.kind) == (method, kind)) for method in methods]
            lines.append(_line([kind.replace("_", " "), *(f"{100 * value:.2f}" for value in values)]))
        lines.append("")
    return "\n".join(lines)


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and write robustness.csv and robustness.md into the folder."""
    parser = argparse.ArgumentParser(prog="python -m training.robustness", description=__doc__)
    parser.add_argument("bundles", nargs="+", type=Path, help="bundle files, or folders of runs")
    parser.add_argument("--out", type=Path, required=True, help="folder for robustness.csv and robustness.md")
    parser.add_argument("--backbone", type=Path, help="folder of the frozen ViT, if it has moved")
    parser.add_argument("--data-dir", type=Path, help="folder of the images, if they have moved")
    parser.add_argument("--most", type=int, help="ask about at most so many images of a set")
    given = parser.parse_args(arguments)
    try:
        paths = [path for each in given.bundles if (path := finished_bundle(each) if each.is_dir() else each)]
        if not paths:
            raise UsageError("none of these folders holds a bundle", hint="give runs of pgn or iip that have ended")
        found = measure(paths, backbone=given.backbone, data_dir=given.data_dir, most=given.most)
        with clear_disk_errors(given.out):
            given.out.mkdir(parents=True, exist_ok=True)
            words = shlex.join(sys.argv[1:] if arguments is None else arguments)
            text = as_markdown(found, command=f"python -m training.robustness {words}")
            write_atomically(given.out / "robustness.csv", as_csv([asdict(each) for each in found]).encode())
            write_atomically(given.out / "robustness.md", text.encode())
    except PgnError as error:
        sys.exit(f"pgn: {error}")


if __name__ == "__main__":
    main()
