"""A prompted image as a file: written, read back, and asked about beside the PGN that wrote its prompts."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pgn.bundle import write_atomically
from pgn.errors import SetupError, UsageError
from pgn.images import read_prompted, read_square
from pgn.method.inversion import Inversion, PromptedImages
from pgn.method.predictor import Predictor

Answer: TypeAlias = tuple[str, float]
"""The most probable class and its probability."""


@dataclass(frozen=True)
class PromptedFile:
    """A written file, and what is said of it.

    Attributes:
        path: The file, `.png` (8 bits) or `.npy` (float32).
        prompted: The image and its prompts before they were written.
        inversion: How they were found.
        full: The answer of the PGN with the frozen ViT.
        alone: The answer of the frozen ViT, given the file as read back.
        plain: The answer of the frozen ViT, given the image without prompts.
    """

    path: Path
    prompted: PromptedImages
    inversion: Inversion
    full: Answer
    alone: Answer
    plain: Answer

    @property
    def lossless(self) -> bool:
        """Whether the file holds the prompts' pixels as they are."""
        return self.inversion.exact or self.path.suffix == ".npy"

    def lines(self) -> Iterator[str]:
        """The report, line by line."""
        height, width = self.prompted.pixels().shape[1:3]
        count = self.prompted.patches.shape[1]
        yield f"{self.path}: {width} x {height} pixels, the image and {count} prompts below it"
        yield self._of_the_pixels()
        inverse = self.inversion.inverse
        yield f"patch projection: condition number {inverse.condition:.3g}, rank {inverse.rank} of {inverse.width}"
        if self.prompted.residual > 1e-3:
            yield f"  no pixels reach all of these prompts: {self.prompted.residual:.0%} of one is missing"
        same = "the same class" if self.alone[0] == self.full[0] else "ANOTHER class"
        yield f"PGN and frozen ViT           {_words(self.full)}"
        yield f"frozen ViT, given the file   {_words(self.alone)}: {same}"
        yield f"frozen ViT, given the image  {_words(self.plain)}"

    def _of_the_pixels(self) -> str:
        low, high = self.prompted.range
        kind = "an RGB library" if self.inversion.exact else "latent prompts"
        values = f"pixels of {kind}: {low:.3f} to {high:.3f}"
        if self.inversion.exact:
            return f"{values}, exact in 8 bits"
        outside = f"{values}, {self.prompted.outside:.0%} of them outside 0 to 1"
        if self.path.suffix == ".npy":
            return f"{outside}, kept as they are"
        lost = self.inversion.lost_in_8_bits(self.prompted.patches)
        return f"{outside}; 8 bits change the prompts by {lost:.1%} of their length (.npy keeps them)"


def write_prompted(predictor: Predictor, image: Path, out: Path) -> PromptedFile:
    """Write the image at the backbone's size with its prompts below, read it back, and ask all ways about it.

    Args:
        predictor: The bundle on its backbone.
        image: An image file; scaled and cropped as for serving.
        out: Ends in `.png` for 8 bits, or in `.npy` for a (S + R, S, 3) float32 array of RGB, nominally in 0..1.

    Raises:
        UsageError: `out` ends otherwise, the image cannot be read, or the prompts do not fill whole rows.
        RequestError: The file is no image.
        SetupError: `out` cannot be written.
    """
    if out.suffix not in (".png", ".npy"):
        raise UsageError(
            f"{out} would not keep the prompts", hint="give a name that ends in .png, or in .npy for floats"
        )
    preprocess = predictor.backbone.spec.preprocess
    inversion = Inversion(predictor.backbone, predictor.generator)
    try:
        data = image.read_bytes()
    except OSError as error:
        raise UsageError(f"{image} cannot be read: {error.strerror}") from error
    square = read_square(data, preprocess.size, interpolation=preprocess.interpolation)
    squares = torch.from_numpy(square.copy())[None]
    prompted = inversion(squares)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(out, _encode(prompted, out.suffix))
    except OSError as error:
        raise SetupError(f"{out} cannot be written: {error.strerror}", hint="choose another folder") from error
    normalise = predictor.backbone.normalise
    return PromptedFile(
        path=out,
        prompted=prompted,
        inversion=inversion,
        full=_best(predictor, predictor.probabilities(squares)),
        alone=_best(predictor, predictor.probabilities_alone(_read_back(predictor, out))),
        plain=_best(predictor, predictor.probabilities_alone(normalise(squares))),
    )


def _encode(prompted: PromptedImages, suffix: str) -> bytes:
    buffer = io.BytesIO()
    if suffix == ".npy":
        np.save(buffer, prompted.pixels()[0].cpu().numpy())
    else:
        Image.fromarray(prompted.to_8_bit()[0].cpu().numpy()).save(buffer, "PNG")
    return buffer.getvalue()


def _read_back(predictor: Predictor, path: Path) -> Tensor:
    """(1, 3, S + R, S) the frozen ViT's input from the file alone."""
    backbone = predictor.backbone
    if path.suffix == ".npy":
        return backbone.normalise.rgb(torch.from_numpy(np.load(path)).permute(2, 0, 1)[None])
    pixels = read_prompted(path.read_bytes(), backbone.spec.preprocess.size)
    inputs: Tensor = backbone.normalise(torch.from_numpy(pixels.copy())[None])
    return inputs


def _best(predictor: Predictor, probabilities: Tensor) -> Answer:
    probability, label = probabilities[0].max(0)
    return predictor.manifest.classes[int(label)], probability.item()


def _words(answer: Answer) -> str:
    return f"{answer[0]} {answer[1]:.1%}"
