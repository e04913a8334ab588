"""Input-independent prompts (IIP): K free vectors, learned by the same loop; what a PGN has to beat."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pgn.bundle import GeneratorSpec
from pgn.method.backbone import FrozenBackbone
from pgn.method.generator import FixedPrompts, Generator
from training.config import TrainConfig


class InputIndependentPrompts:
    """The same prompts for every image."""

    def spec(self, config: TrainConfig, backbone: FrozenBackbone) -> GeneratorSpec:
        """K vectors as wide as the backbone's tokens."""
        return GeneratorSpec(
            encoder="none",
            num_prompts=config.recipe.num_prompts,
            library_size=0,
            embed_dim=backbone.embed_dim,
            input_size=backbone.spec.preprocess.size,
        )

    def start(self, spec: GeneratorSpec, patches: Tensor) -> Generator:
        """K patches drawn at random."""
        generator = FixedPrompts(spec)
        generator.prompts.data.copy_(patches[torch.randint(len(patches), (spec.num_prompts,))])
        return generator

    def groups(self, generator: Generator, config: TrainConfig) -> list[dict[str, Any]]:
        """One group, at the library's rate."""
        return [{"params": [*generator.parameters()], "lr": config.recipe.library_rate, "weight_decay": 0.0}]
