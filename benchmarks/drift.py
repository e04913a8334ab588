"""Prompt drift on the shipped bundles: low on held-out images, high on blurred, noisy and foreign ones.

    python benchmarks/drift.py [--data-dir data] [--out docs/results/drift.md --picture docs/pictures/drift.png]

Stage pgn answers test images in process, as it does behind the gateway, 32 images a row, and its drift is read after
32, 128 and 359 of them, which is all that digits has. Each view is asked three times, in three orders drawn with fixed
seeds; means are written. Corruptions are those of `training/corruptions.py`.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray

from pgn.backbone_spec import read_spec
from pgn.index import read_index
from pgn.message import Message, Request, Target, encode
from pgn.settings import Settings
from pgn.stages.drift import Drift, DriftMonitor
from pgn.stages.pgn_stage import PgnStage
from pgn.store.local import LocalStore
from training.corruptions import STRENGTHS, corrupt
from training.data.images import load_split
from training.data.registry import open_dataset

ROOT = Path(__file__).resolve().parents[1]
DATASETS = ("digits", "fashion-mnist")
COUNTS = (32, 128, 359)
ROW = 32
SEEDS = (0, 1, 2)
HELD_OUT = "held-out"
KINDS = {"defocus_blur": "blur", "gaussian_noise": "noise"}

Pixels = NDArray[np.uint8]  # (M, S, S, 3)


@dataclass(frozen=True)
class Measured:
    """Means over the orders, after so many images of a view."""

    dataset: str
    view: str
    images: int
    distance: float
    noise: float


def main() -> None:
    """Measure, print, and write where asked."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data-dir", type=Path, default=ROOT / "data")
    parser.add_argument("--out", type=Path, help="page whose tables are written anew, between its marks")
    parser.add_argument("--picture", type=Path)
    options = parser.parse_args()
    stage = PgnStage.load(Settings(store=ROOT / "model_store"), torch.device("cpu"))
    found = [each for name in DATASETS for each in measure(stage, name, options.data_dir)]
    print(tables(found))
    if options.out:
        command = f"python benchmarks/drift.py {shlex.join(sys.argv[1:])}"
        head, _, rest = options.out.read_text().partition("<!-- tables -->\n")
        tail = rest.partition("<!-- end of tables -->")[2]
        text = f"{head}<!-- tables -->\nMade by `{command}`.\n\n{tables(found)}\n<!-- end of tables -->{tail}"
        options.out.write_text(text)
    if options.picture:
        draw(found, options.picture)


def measure(stage: PgnStage, name: str, data_dir: Path) -> Iterator[Measured]:
    """One data set's bundle under every view."""
    for view, pixels in views(name, data_dir):
        runs = [ask(stage, name, pixels, seed) for seed in SEEDS]
        for count in runs[0]:
            distance, noise = (mean(getattr(run[count], part) for run in runs) for part in ("distance", "noise"))
            yield Measured(name, view, count, distance, noise)


def views(name: str, data_dir: Path) -> Iterator[tuple[str, Pixels]]:
    """Held-out images of a set, the same corrupted, and those of the other set."""
    held_out = load_test(name, data_dir)
    yield HELD_OUT, held_out
    for kind, word in KINDS.items():
        for strength in STRENGTHS:
            squares = [corrupt(square, kind, strength, sample=number) for number, square in enumerate(held_out)]
            yield f"{word} {strength}", np.stack(squares)
    (other,) = (each for each in DATASETS if each != name)
    yield other, load_test(other, data_dir)


def load_test(name: str, data_dir: Path) -> Pixels:
    """At most so many test images as are asked about, drawn at random, always the same."""
    store = LocalStore(ROOT / "model_store")
    spec, _ = read_spec(store.backbone_folder(read_index(store.root).backbone))
    images = load_split(open_dataset(name, data_dir), "test", spec.preprocess)
    chosen = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))[: COUNTS[-1]]
    return images.pixels(chosen).numpy()


def ask(stage: PgnStage, name: str, pixels: Pixels, seed: int) -> dict[int, Drift]:
    """The stage's drift after so many images, asked in an order of its own."""
    stage.drift = DriftMonitor()
    pixels = pixels[np.random.default_rng(seed).permutation(len(pixels))]
    found = {}
    for start in range(0, len(pixels), ROW):
        part = pixels[start : start + ROW]
        request = Request(id="drift", targets=(Target(dataset=name),), reply="prompts")
        stage.answer([{"body": encode(Message(request, images=part))}])
        count = start + len(part)
        if count in COUNTS:
            ((_, drift),) = stage.drift.drift().items()
            found[count] = drift
    return found


def tables(found: Sequence[Measured]) -> str:
    """For each data set the drift of every view, and its multiple of the noise, by number of images."""
    lines = []
    for name in dict.fromkeys(each.dataset for each in found):
        here = [each for each in found if each.dataset == name]
        counts = list(dict.fromkeys(each.images for each in here))
        lines += [f"## The bundle `{name}`", "", "| images | " + " | ".join(map(str, counts)) + " |"]
        lines += ["| --- |" + " --- |" * len(counts)]
        for view in dict.fromkeys(each.view for each in here):
            cells = [f"{each.distance:.3f} ({each.distance / each.noise:.1f} x)" for each in here if each.view == view]
            lines.append(f"| {view} | " + " | ".join(cells) + " |")
        noise = [f"{each.noise:.3f}" for each in here if each.view == HELD_OUT]
        lines += ["| *noise, of the held-out* | " + " | ".join(noise) + " |", ""]
    return "\n".join(lines)


def draw(found: Sequence[Measured], path: Path) -> None:
    """Drift over the number of images, a panel for each data set."""
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    colours = {HELD_OUT: "black", "blur": "tab:blue", "noise": "tab:orange"}
    styles = {"1": ":", "2": "--", "3": "-"}
    for place, name in enumerate(DATASETS, 1):
        axes = figure.add_subplot(1, 2, place)
        here = [each for each in found if each.dataset == name]
        for view in dict.fromkeys(each.view for each in here):
            points = [each for each in here if each.view == view]
            word, _, strength = view.partition(" ")
            axes.plot(
                [each.images for each in points],
                [each.distance for each in points],
                color=colours.get(word, "tab:red"),
                linestyle=styles.get(strength, "-"),
                marker="o",
                markersize=3,
                label=view,
            )
        points = [each for each in here if each.view == HELD_OUT]
        twice = [2 * each.noise for each in points]
        axes.fill_between([each.images for each in points], 0, twice, color="0.9", label="below twice the noise")
        axes.set(xscale="log", xlabel="images", ylabel="prompt drift", title=f"bundle {name}", ylim=(0, None))
        axes.set_xticks([each.images for each in points], [str(each.images) for each in points], minor=False)
        axes.minorticks_off()
        axes.legend(fontsize=7, ncols=2)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110, metadata={"Software": None})


if __name__ == "__main__":
    main()
