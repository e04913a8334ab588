"""A picture of prompt inversion: images, the same with their prompts below, and what one frozen ViT says to each.

python -m training.inversion_picture BUNDLE IMAGE... --backbone FOLDER --out docs/pictures/inversion.png
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pgn.bundle import read_bundle
from pgn.errors import PgnError
from pgn.method.backbone import load_backbone
from pgn.method.predictor import Predictor
from pgn.method.prompted_image import Answer, PromptedFile, write_prompted
from training.curves import save_figure

INK, QUIET = "#222222", "#777777"


def draw_inversion(files: Sequence[PromptedFile], path: Path) -> None:
    """Write the PNG: above the images, below the prompted images, under each the frozen ViT's answer.

    Both rows have the same scale, so the prompts are seen to be added below and the image above to be untouched.
    """
    talls = [file.prompted.to_8_bit()[0].cpu().numpy() for file in files]
    squares = [file.prompted.squares[0].cpu().numpy() for file in files]
    figure = Figure(figsize=(2.6 * len(files) + 0.4, 6.1), layout="constrained", facecolor="white")
    axes = figure.subplots(2, len(files), squeeze=False, height_ratios=(len(squares[0]), len(talls[0])))
    for column, file in enumerate(files):
        _show(axes[0, column], squares[column], file.plain)
        _show(axes[1, column], talls[column], file.alone)
    for axis, words in zip(axes[:, 0], ("the image", "with its prompts"), strict=True):
        axis.set_ylabel(words, color=QUIET, fontsize=11)
    save_figure(figure, path)


def _show(axes: Axes, pixels: np.ndarray, answer: Answer) -> None:
    axes.imshow(pixels, interpolation="nearest")
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    axes.set_xlabel(f"frozen ViT: {answer[0]}, {answer[1]:.0%}", color=INK, fontsize=11)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m training.inversion_picture", description="Draw prompt inversion.")
    parser.add_argument("bundle", type=Path, help="a bundle file")
    parser.add_argument("images", type=Path, nargs="+", help="image files")
    parser.add_argument("--backbone", type=Path, required=True, help="folder of the frozen ViT")
    parser.add_argument("--out", type=Path, required=True, help="the PNG")
    given = parser.parse_args()
    try:
        predictor = Predictor(load_backbone(given.backbone), read_bundle(given.bundle))
        with tempfile.TemporaryDirectory() as folder:
            files = [
                write_prompted(predictor, image, Path(folder) / f"{number}.png")
                for number, image in enumerate(given.images)
            ]
        draw_inversion(files, given.out)
    except PgnError as error:
        sys.exit(f"pgn: {error}")


if __name__ == "__main__":
    main()
