"""Prompts inside the frozen ViT: the walk through its blocks that VPT and VAPT share.

Prompts stand between the class token (with its registers) and the patches, get no position, and are taken out again
before the read-out. Those of the first layer come before `enter`, so before the `ln_pre` of a CLIP tower, as a PGN's
do; those of a later layer are put between two blocks, where there is no norm but the block's own.
"""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor

from pgn.errors import UsageError
from pgn.method.backbone import FrozenBackbone
from training.methods.interface import Adapter
from training.patches import embed_kept


class InnerPrompts(Adapter):
    """Prompts that a layer may set anew.

    Attributes:
        num_prompts: K, the same in every layer.
        reads_grid: Whether it needs all patches in their places, so that a training step cannot leave any out.
    """

    num_prompts: int
    reads_grid = False

    @abstractmethod
    def prompts(self, layer: int, own: Tensor) -> Tensor | None:
        """What enters a layer.

        Args:
            layer: From 0.
            own: (B, prefix + patches, D), what the ViT has made of its own tokens so far.

        Returns:
            (B, K, D) float32, or None to go on with what the layer before made of its prompts; never None at 0.
        """

    def forward(self, backbone: FrozenBackbone, inputs: Tensor, kept: Tensor | None) -> Tensor:
        """(B, 3, S, S) -> (B, num_features)."""
        with torch.autocast(inputs.device.type, enabled=False):
            own = embed_kept(backbone, inputs, None if self.reads_grid else kept)
        start, end = backbone.num_prefix, backbone.num_prefix + self.num_prompts
        tokens = backbone.enter(_between(own, self.prompts(0, own), start))
        for layer, block in enumerate(backbone.blocks):
            if layer:
                own = _without(tokens, start, end)
                prompts = self.prompts(layer, own)
                tokens = tokens if prompts is None else _between(own, prompts, start)
            tokens = block(tokens)
        return backbone.read_out(_without(tokens, start, end))


def _between(own: Tensor, prompts: Tensor | None, start: int) -> Tensor:
    assert prompts is not None
    return torch.cat([own[:, :start], prompts.to(own.dtype), own[:, start:]], dim=1)


def _without(tokens: Tensor, start: int, end: int) -> Tensor:
    return torch.cat([tokens[:, :start], tokens[:, end:]], dim=1)


@torch.no_grad()
def need_plain_tokens(backbone: FrozenBackbone, method: str) -> None:
    """Try one block on one token more than the ViT's own.

    Raises:
        UsageError: The block takes something else, e.g. a grid of patches.
    """
    count = backbone.num_prefix + backbone.grid**2 + 1
    tokens = torch.zeros(1, count, backbone.embed_dim, device=next(backbone.parameters()).device)
    try:
        fits = backbone.blocks[0](tokens).shape == tokens.shape
    except (TypeError, RuntimeError, ValueError, AttributeError, AssertionError):
        fits = False
    if not fits:
        raise UsageError(
            f"{method} puts prompts before blocks of the ViT, and those of {backbone.spec.name} take no plain tokens",
            hint="--method pgn, iip and vp need only the ViT's input",
        )
