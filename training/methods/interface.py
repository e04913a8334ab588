"""The interface of a method: the shape of its generator, its start, and how fast each part learns."""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor

from pgn.bundle import GeneratorSpec
from pgn.method.backbone import FrozenBackbone
from pgn.method.generator import Generator
from training.config import TrainConfig


class Method(Protocol):
    """Writes prompts, and says how it learns to."""

    def spec(self, config: TrainConfig, backbone: FrozenBackbone) -> GeneratorSpec:
        """The generator's shape in front of this backbone."""

    def start(self, spec: GeneratorSpec, patches: Tensor) -> Generator:
        """A generator with this method's initial values, drawn from torch's global random state.

        Prompts start among `patches`, (M, D) tokens of the training images as the ViT sees them: small random
        vectors would be blown up by the norm that follows and spoil the features that the head starts from.
        """

    def groups(self, generator: Generator, config: TrainConfig) -> list[dict[str, Any]]:
        """The generator's parameters in groups with a rate (`lr`) and a `weight_decay`, as optimisers take them."""
