"""What learns: an adapter and a head, around a frozen backbone that is passed in and never touched."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pgn.method.backbone import FrozenBackbone
from training.heads import LearnedHead, TrainingHead, shared_rows
from training.methods.interface import Adapter
from training.methods.prompted import PromptedAdapter
from training.methods.warm_start import carried_over
from training.setting import Setting


class AdaptedClassifier(nn.Module):
    """Adapted images through the frozen ViT, features through the head."""

    def __init__(self, adapter: Adapter, head: TrainingHead) -> None:
        super().__init__()
        self.adapter = adapter
        self.head = head

    def forward(self, backbone: FrozenBackbone, inputs: Tensor, kept: Tensor | None) -> Tensor:
        """Logits of images.

        Under autocast the tower runs in the lower precision; the head never does, nor what adapters keep out of it.

        Args:
            backbone: The frozen ViT.
            inputs: (B, 3, S, S) normalised images.
            kept: (B, n) indices of the ViT's own tokens that are seen, or None for all.

        Returns:
            (B, C) float32.
        """
        features = self.adapter(backbone, inputs, kept)
        with torch.autocast(inputs.device.type, enabled=False):
            logits: Tensor = self.head(features.float())
        return logits

    @torch.no_grad()
    def is_finite(self) -> bool:
        """Whether all that learns, and BatchNorm's statistics, are finite numbers; asks the device once."""
        return bool(torch.stack([tensor.isfinite().all() for tensor in self.state_dict().values()]).all())


def starts_of(model: AdaptedClassifier, setting: Setting) -> list[str]:
    """A line for each bundle that `model` goes on from: what it has of it, and what not."""
    lines = []
    for path, bundle in zip(setting.config.start_from, setting.starts, strict=True):
        assert isinstance(model.adapter, PromptedAdapter)
        said = [carried_over(model.adapter.generator, bundle)]
        if isinstance(model.head, LearnedHead):
            classes = setting.dataset.classes
            said.append(f"{len(shared_rows(bundle, classes))} of {len(classes)} rows of the head")
        lines.append(f"from {path}: {'; '.join(said)}")
    return lines
