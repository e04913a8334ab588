"""The prompt generation network: ResNet10 writes a mixture over a token library for each prompt of each image."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from pgn.bundle import GeneratorSpec
from pgn.method.generator import PromptGenerator
from training.config import TrainConfig
from training.methods.interface import Adapter, Reach
from training.methods.prompted import PromptedAdapter

if TYPE_CHECKING:
    from training.setting import Setting

OWN_TOKEN_BIAS = 5.0  # its share of the mixture is then 0.7 in a library of 64


class PromptGeneration:
    """Prompts that depend on the image."""

    reach: Reach = "input"
    served = True

    def start(self, setting: Setting) -> Adapter:
        """A library of patches drawn at random, the encoder as in the paper, and each prompt leaning on one token.

        The library starts among the tokens of the training images as the ViT sees them: small random vectors would be
        blown up by the norm that follows and spoil the features that the head starts from. A flat mixture would make
        every prompt the mean of the library, which is no patch and harms the features as well; leaning, the PGN
        starts as input-independent prompts would, while the encoder finds out when to mix.
        """
        config, backbone = setting.config, setting.backbone
        spec = GeneratorSpec(
            encoder="resnet10",
            encoder_width=config.encoder_width,
            num_prompts=config.recipe.num_prompts,
            library_size=config.recipe.library_size,
            embed_dim=backbone.embed_dim,
            input_size=min(config.input_size, backbone.spec.preprocess.size),
            antialias=True,
        )
        generator, patches = PromptGenerator(spec), setting.patches()
        generator.library.tokens.data.copy_(patches[torch.randint(len(patches), (spec.library_size,))])
        bias = generator.to_logits.bias.data.view(spec.num_prompts, spec.library_size)
        own = torch.arange(spec.num_prompts)
        bias[own, own % spec.library_size] += OWN_TOKEN_BIAS
        return PromptedAdapter(generator)

    def groups(self, adapter: Adapter, config: TrainConfig) -> list[dict[str, Any]]:
        """The encoder with its logits, and the library at its larger rate."""
        assert isinstance(adapter, PromptedAdapter)
        generator = adapter.generator
        assert isinstance(generator, PromptGenerator)
        encoder = [*generator.encoder.parameters(), *generator.to_logits.parameters()]
        return [
            {"params": encoder, "lr": config.recipe.encoder_rate, "weight_decay": config.weight_decay},
            {"params": [generator.library.tokens], "lr": config.recipe.library_rate, "weight_decay": 0.0},
        ]
