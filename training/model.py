"""What learns: a generator and a head, around a frozen backbone that is passed in and never touched."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pgn.method.backbone import FrozenBackbone
from pgn.method.generator import Generator
from training.heads import TrainingHead


class PromptedClassifier(nn.Module):
    """Prompts into the frozen ViT, features through the head."""

    def __init__(self, generator: Generator, head: TrainingHead) -> None:
        super().__init__()
        self.generator = generator
        self.head = head

    def forward(self, backbone: FrozenBackbone, inputs: Tensor, *, bf16: bool) -> Tensor:
        """(B, 3, S, S) normalised images -> (B, C) float32 logits; with `bf16` the frozen tower runs in bfloat16."""
        with torch.no_grad():
            tokens = backbone.embed(inputs)
        tokens = torch.cat([tokens, self.generator(inputs)], dim=1)
        with torch.autocast(inputs.device.type, torch.bfloat16, enabled=bf16):
            features = backbone.encode(tokens)
        logits: Tensor = self.head(features.float())
        return logits
