"""The PGN's image encoder alone, with a head of its own: what the small network knows without any ViT."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from pgn.bundle import GeneratorSpec
from pgn.method.backbone import FrozenBackbone
from pgn.method.encoders import build_encoder, resize_for
from training.methods.interface import Adapter, Method
from training.methods.pgn import ENCODER_OPTIONS, generator_spec
from training.result import Reach

if TYPE_CHECKING:
    from training.config import TrainConfig
    from training.setting import Setting


class EncoderFeatures(Adapter):
    """An image encoder as a prompt generator has it, without prompts."""

    def __init__(self, spec: GeneratorSpec) -> None:
        super().__init__()
        self.spec = spec
        self.encoder = build_encoder(spec)

    def forward(self, backbone: FrozenBackbone, inputs: Tensor, kept: Tensor | None) -> Tensor:  # noqa: ARG002
        """(B, 3, S, S) -> (B, features) of the encoder; the ViT is not asked."""
        with torch.autocast(inputs.device.type, enabled=False):  # as in a PGN, so that both learn alike
            features: Tensor = self.encoder(resize_for(self.spec, inputs))
            return features


class EncoderAlone(Method):
    """The PGN's image encoder with a head of its own: beside it one sees what the frozen ViT brings."""

    reach: ClassVar[Reach] = "nothing"
    heads = ("linear",)
    head_learns = True
    options = frozenset({*ENCODER_OPTIONS, "encoder_rate"})
    parameters = "E"
    source = "Loedeman et al., arXiv 2210.06466"

    def check(self, config: TrainConfig, backbone: FrozenBackbone) -> None:
        """The encoder's crop fits."""
        super().check(config, backbone)
        generator_spec(config, backbone)

    def start(self, setting: Setting) -> Adapter:
        """The encoder that a PGN of this config has, with the same start."""
        return EncoderFeatures(generator_spec(setting.config, setting.backbone))

    def groups(self, adapter: Adapter, config: TrainConfig) -> list[dict[str, Any]]:
        """One group, at the encoder's rate."""
        rate = config.recipe.encoder_rate
        return [{"params": [*adapter.parameters()], "lr": rate, "weight_decay": config.weight_decay}]

    def own_features(self, config: TrainConfig) -> int:
        """What the encoder gives: 8 times its width, 512, or its hidden width."""
        return {"resnet10": 8 * config.encoder_width, "resnet18": 512, "mlp": config.hidden}[config.encoder]
