"""Input-independent prompts (IIP): K free vectors, learned by the same loop; what a PGN has to beat."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import torch

from pgn.bundle import GeneratorSpec
from pgn.method.backbone import FrozenBackbone
from pgn.method.generator import FixedPrompts
from training.methods.interface import Adapter, Method
from training.methods.prompted import PromptedAdapter
from training.methods.warm_start import start_prompts
from training.result import Reach

if TYPE_CHECKING:
    from training.config import TrainConfig
    from training.setting import Setting


class InputIndependentPrompts(Method):
    """Input-independent prompts: K behind the patches, the same for every image."""

    reach: ClassVar[Reach] = "input"
    served = True
    options = frozenset({"num_prompts", "library_rate", "start_from", "keep"})
    parameters = "K*D"
    source = "Loedeman et al., arXiv 2210.06466"

    def start(self, setting: Setting) -> Adapter:
        """K patches of the training images, drawn at random; or the prompts of the bundle to start from."""
        spec = prompts_spec(setting.config, setting.backbone)
        generator, patches = FixedPrompts(spec), setting.patches()
        generator.prompts.data.copy_(patches[torch.randint(len(patches), (spec.num_prompts,))])
        for bundle in setting.starts:
            start_prompts(generator, bundle)
        return PromptedAdapter(generator)

    def groups(self, adapter: Adapter, config: TrainConfig) -> list[dict[str, Any]]:
        """One group, at the library's rate."""
        return [{"params": [*adapter.parameters()], "lr": config.recipe.library_rate, "weight_decay": 0.0}]


def prompts_spec(config: TrainConfig, backbone: FrozenBackbone) -> GeneratorSpec:
    """The shape of the prompts that the config asks for, on that backbone."""
    return GeneratorSpec(
        encoder="none",
        num_prompts=config.recipe.num_prompts,
        library_size=0,
        embed_dim=backbone.embed_dim,
        input_size=backbone.spec.preprocess.size,
    )
