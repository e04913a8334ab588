"""Evidence for prompt inversion: how much accuracy is left when the prompts travel as pixels below the image.

    python -m training.inversion runs/rgb/digits.*.safetensors runs/latent/digits.*.safetensors --out docs/results

For each bundle, the images of a split are answered in six ways: by the frozen ViT without prompts, by the PGN with the
frozen ViT, and by the frozen ViT alone given prompted images, whose prompts are unrounded, cut to 0..1, or went through
a real PNG or JPEG file. Writes inversion.csv, one row a bundle and way, and inversion.md, one row a bundle.
"""

from __future__ import annotations

import argparse
import io
import shlex
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from pgn.bundle import write_atomically
from pgn.errors import PgnError, UsageError
from pgn.method.head import Head
from pgn.method.inversion import Inversion, PromptedImages
from pgn.method.pixels import Normalise
from pgn.method.predictor import Predictor
from training.analysis.subject import open_subject
from training.data.dataset import SplitName
from training.disk import clear_disk_errors
from training.features import EVAL_BATCH
from training.records import as_csv

WAYS = ("no prompts", "forward", "float rows", "clamped rows", "8-bit PNG", "JPEG 95")
PLAIN, FORWARD, FLOAT, CLAMPED, PNG, JPEG = WAYS
TITLE = "# Prompts that travel as pixels: top-1 in % on the images of a split"


@dataclass(frozen=True)
class Way:
    """What one way of bringing the prompts to the ViT gave.

    Attributes:
        top1: Share of right answers.
        same: Share of answers with the class of the way "forward".
        difference: Largest difference to its features, both at length 1, over images and values.
    """

    top1: float
    same: float
    difference: float


@dataclass(frozen=True)
class Evidence:
    """What was found for one bundle.

    Attributes:
        bundle: Name of its file.
        library: "rgb", "latent", or "none" where prompts are no mixture.
        split: Which images.
        images: Their number.
        condition: Condition number of the backbone's patch projection.
        rank: Its rank; `width` is the tokens'.
        low: Smallest value of the prompts' pixels; `high` is the largest.
        outside: Share of those values outside 0..1.
        residual: Largest share of a prompt that no pixels reach.
        ways: By name, in the order of `WAYS`.
    """

    bundle: str
    library: str
    split: SplitName
    images: int
    num_prompts: int
    condition: float
    rank: int
    width: int
    low: float
    high: float
    outside: float
    residual: float
    ways: dict[str, Way]


def measure(
    bundle: Path,
    *,
    backbone: Path | None = None,
    split: SplitName = "test",
    limit: int | None = None,
    data_dir: Path | None = None,
) -> Evidence:
    """Answer a split in all ways.

    Args:
        bundle: A bundle's file, made by `pgn train`.
        backbone: Folder of its backbone, if it has moved.
        split: Which images.
        limit: At most so many, evenly spaced over the split.
        data_dir: Folder of the images, if they have moved.

    Raises:
        UsageError: No image is asked about, the bundle does not say how it was trained, or its prompts do not fill
            whole rows.
        PgnError: What reading bundle, backbone and images raises.
    """
    if limit is not None and limit < 1:
        raise UsageError(f"{limit} images cannot be asked about", hint="give --limit 1 or more")
    subject = open_subject(bundle, backbone=backbone, split=split, data_dir=data_dir)
    predictor, images = subject.predictor, subject.images
    inversion = Inversion(predictor.backbone, predictor.generator)
    chosen = torch.linspace(0, len(images) - 1, min(limit or len(images), len(images))).long()
    features: dict[str, list[Tensor]] = {way: [] for way in WAYS}
    pixels: list[tuple[float, float, float, float]] = []
    for part in chosen.split(EVAL_BATCH):
        squares = images.pixels(part)
        prompted = inversion(squares)
        pixels.append((*prompted.range, prompted.outside * len(part), prompted.residual))
        for way, found in _features(predictor, squares, prompted):
            features[way].append(found)
    lows, highs, outside, residuals = zip(*pixels, strict=True)
    spec = subject.bundle.manifest.generator
    return Evidence(
        bundle=bundle.name,
        library=spec.library if spec.library_size else "none",
        split=split,
        images=len(chosen),
        num_prompts=spec.num_prompts,
        condition=inversion.inverse.condition,
        rank=inversion.inverse.rank,
        width=inversion.inverse.width,
        low=min(lows),
        high=max(highs),
        outside=sum(outside) / len(chosen),
        residual=max(residuals),
        ways=_compare(
            predictor.head, {way: torch.cat(parts) for way, parts in features.items()}, images.labels[chosen]
        ),
    )


def _compare(head: Head, features: dict[str, Tensor], labels: Tensor) -> dict[str, Way]:
    """What each way's (M, num_features) say, beside the (M) labels and the way "forward"."""
    answers = {way: head(found).argmax(1).cpu() for way, found in features.items()}
    unit = {way: F.normalize(found, dim=-1) for way, found in features.items()}
    return {
        way: Way(
            top1=(answers[way] == labels).double().mean().item(),
            same=(answers[way] == answers[FORWARD]).double().mean().item(),
            difference=(unit[way] - unit[FORWARD]).abs().max().item(),
        )
        for way in WAYS
    }


@torch.inference_mode()
def _features(predictor: Predictor, squares: Tensor, prompted: PromptedImages) -> Iterator[tuple[str, Tensor]]:
    """(B, num_features) of each way."""
    backbone = predictor.backbone
    images = backbone.normalise(squares)
    yield PLAIN, backbone(images)
    yield FORWARD, backbone(images, predictor.generator(images))
    for way, inputs in _tall_inputs(prompted, backbone.normalise):
        yield way, backbone(inputs)


def _tall_inputs(prompted: PromptedImages, normalise: Normalise) -> Iterator[tuple[str, Tensor]]:
    """(B, 3, S + R, S) of each way that uses prompted images."""
    yield FLOAT, prompted.inputs(normalise)
    yield CLAMPED, replace(prompted, patches=prompted.patches.clamp(0, 1)).inputs(normalise)
    yield PNG, normalise(through_file(prompted.to_8_bit(), "PNG"))
    yield JPEG, normalise(through_file(prompted.to_8_bit(), "JPEG", quality=95))


def through_file(pixels: Tensor, form: str, **options: object) -> Tensor:
    """(B, H, W, 3) uint8, each image encoded and decoded by Pillow with its usual settings for that format."""
    decoded = []
    for array in pixels.cpu().numpy():
        file = io.BytesIO()
        Image.fromarray(array).save(file, form, **options)
        decoded.append(np.asarray(Image.open(file)))
    return torch.from_numpy(np.stack(decoded))


def evidence_csv(found: Sequence[Evidence]) -> str:
    """One row a bundle and way; shares in 0..1."""
    return as_csv(
        [
            {name: _short(value) for name, value in vars(evidence).items() if name != "ways"}
            | {"way": name, "top1": f"{way.top1:.5f}", "same_as_forward": f"{way.same:.5f}"}
            | {"feature_difference": f"{way.difference:.3g}"}
            for evidence in found
            for name, way in evidence.ways.items()
        ]
    )


def as_markdown(found: Sequence[Evidence]) -> str:
    """One row a bundle; top-1 in %, then how often a PNG gets the answer of the full PGN."""
    head = ["bundle", "library", "images", "cond(W)", "pixels", "outside 0..1", *WAYS, "PNG answers as forward"]
    lines = [head, ["---"] * 2 + ["---:"] * (len(head) - 2)]
    for evidence in found:
        lines.append(
            [
                evidence.bundle.removesuffix(".safetensors"),
                evidence.library,
                str(evidence.images),
                f"{evidence.condition:.3g}",
                f"{evidence.low:.2f} .. {evidence.high:.2f}",
                f"{evidence.outside:.1%}",
                *(f"{100 * way.top1:.2f}" for way in evidence.ways.values()),
                f"{evidence.ways[PNG].same:.1%}",
            ]
        )
    return "".join("| " + " | ".join(cells) + " |\n" for cells in lines)


def _short(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m training.inversion", description="Accuracy of bundles when their prompts travel as pixels."
    )
    parser.add_argument("bundles", type=Path, nargs="+", help="bundle files")
    parser.add_argument("--out", type=Path, required=True, help="folder for inversion.csv and inversion.md")
    parser.add_argument("--backbone", type=Path, help="folder of the frozen ViT, if it has moved")
    parser.add_argument("--data-dir", type=Path, help="folder of the images, if they have moved")
    parser.add_argument("--split", choices=("test", "val", "train"), default="test")
    parser.add_argument("--limit", type=int, help="at most so many images, evenly spaced")
    given = parser.parse_args()
    try:
        options = {"backbone": given.backbone, "split": given.split, "limit": given.limit, "data_dir": given.data_dir}
        found = [measure(bundle, **options) for bundle in given.bundles]
        with clear_disk_errors(given.out):
            given.out.mkdir(parents=True, exist_ok=True)
            write_atomically(given.out / "inversion.csv", evidence_csv(found).encode())
            command = shlex.join(["python", "-m", "training.inversion", *sys.argv[1:]])
            write_atomically(given.out / "inversion.md", f"{TITLE}\n\n    {command}\n\n{as_markdown(found)}".encode())
    except PgnError as error:
        sys.exit(f"pgn: {error}")
    sys.stdout.write(as_markdown(found))


if __name__ == "__main__":
    main()
