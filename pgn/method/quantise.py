"""A frozen ViT with 8-bit weights: a quarter of the memory, and a gradient that still reaches the prompts.

Weight only: each row w of a block's linear layers becomes int8 values q and one float scale s = max |w| / 127, so that
s q is w to half a step. The layer computes with s q, in the type it always had; nothing else of the tower is touched.
Such weights cannot learn at all, which is the case that prompts from outside are made for.
"""

from __future__ import annotations

import re
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

_LARGEST: Final = 127  # symmetric: -128 has no counterpart
_VALUES: Final = re.compile(r"parametrizations\.(\w+)\.original0$")
_SCALE: Final = re.compile(r"parametrizations\.(\w+)\.original1$")


class Int8Rows(nn.Module):
    """The parametrisation of a matrix by int8 rows with a scale each; to its layer the matrix looks as ever."""

    def forward(self, values: Tensor, scale: Tensor) -> Tensor:
        """(rows, columns) int8 and (rows) float -> (rows, columns) float."""
        return values.to(scale.dtype) * scale[:, None]

    def right_inverse(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """(rows, columns) float -> (rows, columns) int8 and (rows) float; a row of zeros gets the scale 1."""
        scale = weight.abs().amax(dim=1) / _LARGEST
        scale = torch.where(scale > 0, scale, 1.0)
        return (weight / scale[:, None]).round().to(torch.int8), scale


def quantise_linears(blocks: nn.Module) -> None:
    """Turn the weights of all linear layers in `blocks`, attention's included, into int8 rows: frozen, in place."""
    for module in list(blocks.modules()):
        if isinstance(module, nn.MultiheadAttention):  # keeps queries, keys and values in one matrix of its own
            _quantise(module, "in_proj_weight")
        elif isinstance(module, nn.Linear):
            _quantise(module, "weight")


def _quantise(module: nn.Module, name: str) -> None:
    getattr(module, name).requires_grad_(False)  # int8 takes no gradient
    parametrize.register_parametrization(module, name, Int8Rows())


def stored_name(name: str) -> str:
    """What a backbone folder calls a tensor of the tower's state: an int8 `weight` is `weight` and `weight_scale`."""
    return _SCALE.sub(r"\1_scale", _VALUES.sub(r"\1", name))
