"""Prompts in front of the frozen ViT: what every method whose result is served has in common."""

from __future__ import annotations

import torch
from torch import Tensor

from pgn.method.backbone import FrozenBackbone
from pgn.method.generator import Generator
from training.methods.interface import Adapter
from training.patches import embed_kept


class PromptedAdapter(Adapter):
    """A generator's prompts behind the patch tokens, as they are served."""

    def __init__(self, generator: Generator) -> None:
        super().__init__()
        self.generator = generator

    def forward(self, backbone: FrozenBackbone, inputs: Tensor, kept: Tensor | None) -> Tensor:
        """(B, 3, S, S) -> (B, num_features)."""
        with torch.autocast(inputs.device.type, enabled=False):  # what learns, and its BatchNorm, stays in float32
            tokens = torch.cat([embed_kept(backbone, inputs, kept), self.generator(inputs)], dim=1)
        return backbone.encode(tokens)
