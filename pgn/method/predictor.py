"""Generator, frozen ViT and head as one answer: the in-process twin of what the served stages do."""

from __future__ import annotations

import torch
from torch import Tensor

from pgn.bundle import Bundle
from pgn.errors import BundleIncompatible
from pgn.method.backbone import FrozenBackbone
from pgn.method.generator import load_generator
from pgn.method.head import load_head


class Predictor:
    """Answers with one bundle on its backbone.

    Raises:
        BundleIncompatible: The bundle belongs to another backbone.
    """

    def __init__(self, backbone: FrozenBackbone, bundle: Bundle) -> None:
        if bundle.manifest.backbone.digest != backbone.digest:
            raise BundleIncompatible(
                f"bundle {bundle.version} was trained on {bundle.manifest.backbone.name}, not on {backbone.spec.name}"
            )
        self.backbone = backbone
        self.manifest = bundle.manifest
        device = next(backbone.parameters()).device
        self.generator = load_generator(bundle).to(device)
        self.head = load_head(bundle).to(device)

    @torch.inference_mode()
    def probabilities(self, pixels: Tensor) -> Tensor:
        """(B, S, S, 3) uint8 squares -> (B, C) float32 class probabilities, calibrated by the temperature."""
        images = self.backbone.normalise(pixels)
        features = self.backbone(images, self.generator(images))
        logits: Tensor = self.head(features) / self.manifest.temperature
        return logits.softmax(dim=-1)
