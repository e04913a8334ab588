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

    def forward(self, backbone: FrozenBackbone, inputs: Tensor, tokens: Tensor, *, bf16: bool) -> Tensor:
        """Logits of prompted images.

        Args:
            backbone: The frozen ViT.
            inputs: (B, 3, S, S) normalised images, for the generator.
            tokens: (B, tokens, D) of the same images, as `backbone.embed` gives them, or some of the patches only.
            bf16: Run the frozen tower in bfloat16.

        Returns:
            (B, C) float32.
        """
        tokens = torch.cat([tokens, self.generator(inputs)], dim=1)
        with torch.autocast(inputs.device.type, torch.bfloat16, enabled=bf16):
            features = backbone.encode(tokens)
        logits: Tensor = self.head(features.float())
        return logits
