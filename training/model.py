"""What learns: a generator and a linear head, around a frozen backbone that is passed in and never touched."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pgn.method.backbone import FrozenBackbone
from pgn.method.generator import Generator
from pgn.method.head import Head
from training.methods.linear_probe import LinearProbe, fold


class PromptedClassifier(nn.Module):
    """Prompts into the frozen ViT, features through a head that starts as the linear probe.

    The head learns on standardised features, so that one rate suits every backbone; `head` folds that away.
    """

    def __init__(self, generator: Generator, probe: LinearProbe) -> None:
        super().__init__()
        self.generator = generator
        self.weight = nn.Parameter(probe.weight.clone())
        self.bias = nn.Parameter(probe.bias.clone())
        self.register_buffer("mean", probe.mean)
        self.register_buffer("std", probe.std)

    def forward(self, backbone: FrozenBackbone, inputs: Tensor, *, bf16: bool) -> Tensor:
        """(B, 3, S, S) normalised images -> (B, C) float32 logits; with `bf16` the frozen tower runs in bfloat16."""
        with torch.no_grad():
            tokens = backbone.embed(inputs)
        tokens = torch.cat([tokens, self.generator(inputs)], dim=1)
        with torch.autocast(inputs.device.type, torch.bfloat16, enabled=bf16):
            features = backbone.encode(tokens)
        return F.linear((features.float() - self.mean) / self.std, self.weight, self.bias)

    def head(self) -> Head:
        """The head on raw features, as a bundle carries it."""
        with torch.no_grad():
            return fold(self.weight, self.bias, self.mean, self.std)
