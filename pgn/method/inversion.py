"""Prompt inversion: prompts as rows of pixels below the image, so that the frozen ViT needs nothing but a picture.

The ViT cuts those rows into patches and projects each to a token, which is the prompt. The prompts of an RGB library
are pixels by nature. For any other prompts the pixels are looked for with the pseudo-inverse of the projection: exact
in floating point where the projection has full rank, and as a rule far outside of what 8 bits can hold.

Positions are no obstacle: the backbone gives none to rows below its own square (docs/adr/0005).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from pgn.errors import UsageError
from pgn.method.backbone import FrozenBackbone
from pgn.method.generator import Generator, PromptGenerator
from pgn.method.library import RGBLibrary
from pgn.method.pixels import Normalise
from pgn.method.projection import PatchInverse, projection_of


@dataclass(frozen=True)
class PromptedImages:
    """Images with their prompts as patches of pixels.

    Attributes:
        squares: (B, S, S, 3) uint8, the images as the backbone reads them.
        patches: (B, K, 3, P, P) float32 RGB of the prompts, row by row. Within 0..1 they can be saved; those of an RGB
            library are besides rounded to 8 bits.
        grid: Patches in a row.
        residual: Largest share of a prompt that no pixels reach; 0 for an RGB library.
    """

    squares: Tensor
    patches: Tensor
    grid: int
    residual: float

    @property
    def range(self) -> tuple[float, float]:
        """Smallest and largest value of the prompts' pixels."""
        return self.patches.min().item(), self.patches.max().item()

    @property
    def outside(self) -> float:
        """Share of the prompts' pixel values outside 0..1, which an 8-bit image cuts off."""
        return ((self.patches < 0) | (self.patches > 1)).double().mean().item()

    def rows(self) -> Tensor:
        """(B, 3, R, S) the prompts' pixels as they lie below the image: prompt k in row k // grid, column k % grid."""
        batch, _, channels, side, _ = self.patches.shape
        cells = self.patches.view(batch, -1, self.grid, channels, side, side)
        return cells.permute(0, 3, 1, 4, 2, 5).reshape(batch, channels, -1, self.grid * side)

    def inputs(self, normalise: Normalise) -> Tensor:
        """(B, 3, S + R, S) the frozen ViT's input, with the prompts' pixels as they are, unrounded."""
        return torch.cat([normalise(self.squares), normalise.rgb(self.rows())], dim=2)

    def pixels(self) -> Tensor:
        """(B, S + R, S, 3) float32 RGB, the images in 0..1 and the prompts' pixels as they are."""
        return torch.cat([self.squares.float() / 255, self.rows().permute(0, 2, 3, 1)], dim=1)

    def to_8_bit(self) -> Tensor:
        """(B, S + R, S, 3) uint8 RGB: exact for an RGB library, cut to 0..1 and rounded for other prompts."""
        return to_8_bit(self.pixels())


def require_whole_rows(count: int, grid: int) -> None:
    """Whether that many prompts can stand below an image of `grid` patches a row.

    Raises:
        UsageError: They do not fill whole rows, or more rows than the image has.
    """
    if count % grid or count > grid * grid:
        below = min(max(count // grid, 1), grid - 1)
        raise UsageError(
            f"{count} prompts do not fill whole rows of {grid} patches, up to {grid} rows",
            hint=f"train with --num-prompts {below * grid} or {(below + 1) * grid}",
        )


class Inversion:
    """Writes prompts into images.

    Args:
        backbone: The frozen ViT.
        generator: What writes prompts for it, of any kind.

    Attributes:
        inverse: The pseudo-inverse of the backbone's patch projection.
        exact: Whether the prompts are pixels by nature, so that 8 bits lose nothing.

    Raises:
        UsageError: The prompts do not fill whole rows of patches, or more rows than the image has.
        BackboneInvalid: Its patch tokens are no linear function of the pixels.
    """

    def __init__(self, backbone: FrozenBackbone, generator: Generator) -> None:
        require_whole_rows(generator.spec.num_prompts, backbone.grid)
        self._projection = projection_of(backbone)
        self.inverse = PatchInverse(self._projection)
        self.exact = isinstance(generator, PromptGenerator) and isinstance(generator.library, RGBLibrary)
        self._backbone = backbone
        self._generator = generator

    @torch.inference_mode()
    def __call__(self, pixels: Tensor) -> PromptedImages:
        """(B, S, S, 3) uint8 squares -> the same with their prompts below."""
        images = self._backbone.normalise(pixels)
        grid, squares = self._backbone.grid, pixels.to(images.device)
        if self.exact:
            patches = cast("PromptGenerator", self._generator).patches(images)
            return PromptedImages(squares, patches, grid, residual=0.0)
        prompts = self._generator(images)
        residual = self.inverse.residual(prompts).max().item()
        return PromptedImages(squares, self.inverse.patches(prompts).float(), grid, residual)

    @torch.inference_mode()
    def lost_in_8_bits(self, patches: Tensor) -> float:
        """How much of its length a prompt changes on average when its pixels become those of a PNG.

        Args:
            patches: (B, K, 3, P, P) RGB, cut to 0..1 and rounded here.
        """
        prompts = self._projection(patches)
        change: Tensor = self._projection(to_8_bit(patches).float() / 255) - prompts
        share: Tensor = change.norm(dim=-1) / prompts.norm(dim=-1).clamp(min=1e-30)
        return share.mean().item()


def to_8_bit(rgb: Tensor) -> Tensor:
    """RGB values cut to 0..1 and rounded, as uint8 of the same shape."""
    return (rgb.clamp(0, 1) * 255).round().to(torch.uint8)
