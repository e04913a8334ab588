"""Generator, frozen ViT and head as one answer: the in-process twin of what the served stages do."""

from __future__ import annotations

import torch
from torch import Tensor

from pgn.bundle import Bundle
from pgn.errors import BundleIncompatible
from pgn.method.backbone import FrozenBackbone
from pgn.method.generator import load_generator
from pgn.method.head import load_head
from pgn.method.projection import projection_of


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
        projection = projection_of(backbone) if bundle.manifest.generator.library == "rgb" else None
        self.generator = load_generator(bundle, projection).to(device)
        self.head = load_head(bundle).to(device)

    @torch.inference_mode()
    def probabilities(self, pixels: Tensor) -> Tensor:
        """(B, S, S, 3) uint8 squares -> (B, C) float32 class probabilities, calibrated by the temperature."""
        images = self.backbone.normalise(pixels)
        return self._answer(self.backbone(images, self.generator(images)))

    @torch.inference_mode()
    def probabilities_alone(self, inputs: Tensor) -> Tensor:
        """What the frozen ViT and the head say without the generator.

        Args:
            inputs: (B, 3, S + R, S) normalised; the R rows below the square hold the prompts of a prompted image. With
                R = 0 it is the answer without prompts.

        Returns:
            (B, C) float32.
        """
        return self._answer(self.backbone(inputs))

    def _answer(self, features: Tensor) -> Tensor:
        logits: Tensor = self.head(features) / self.manifest.temperature
        return logits.softmax(dim=-1)
