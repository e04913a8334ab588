"""Visual prompt tuning (VPT): free prompts in front of the first block, or anew in front of every block."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pgn.method.backbone import FrozenBackbone
from training.methods.inner import InnerPrompts, need_plain_tokens
from training.methods.interface import Adapter, Method
from training.result import Reach

if TYPE_CHECKING:
    from training.config import TrainConfig
    from training.setting import Setting


def draw_prompts(backbone: FrozenBackbone, *shape: int) -> Tensor:
    """(*shape, D) uniform in (-v, v), v = sqrt(6 / (3 P^2 + D)): VPT's start, Xavier's for a patch projection."""
    limit = math.sqrt(6 / (3 * backbone.patch_size**2 + backbone.embed_dim))
    return torch.empty(*shape, backbone.embed_dim).uniform_(-limit, limit)


class FreePrompts(InnerPrompts):
    """Prompts (layers, K, D), the same for every image; a layer beyond them keeps what it is given.

    In training each value is dropped with probability `dropout`, anew for each image.
    """

    def __init__(self, values: Tensor, dropout: float) -> None:
        super().__init__()
        self.values = nn.Parameter(values)
        self.num_prompts, self.dropout = values.shape[1], dropout

    def prompts(self, layer: int, own: Tensor) -> Tensor | None:
        """(B, K, D) of that layer, or None beyond the last that has its own."""
        if layer >= len(self.values):
            return None
        return F.dropout(self.values[layer].expand(len(own), -1, -1), self.dropout, self.training)


class _PromptTuning(Method):
    source = "Jia et al., arXiv 2203.12119"

    def check(self, config: TrainConfig, backbone: FrozenBackbone) -> None:
        """Blocks take prompts."""
        super().check(config, backbone)
        need_plain_tokens(backbone, config.method)

    def groups(self, adapter: Adapter, config: TrainConfig) -> list[dict[str, Any]]:
        """One group, at the prompts' rate."""
        return [{"params": [*adapter.parameters()], "lr": config.recipe.library_rate, "weight_decay": 0.0}]


class ShallowPromptTuning(_PromptTuning):
    """Visual prompt tuning: K free prompts before the first block; without an order, so IIP from another start."""

    reach: ClassVar[Reach] = "input"
    options = frozenset({"num_prompts", "library_rate", "keep"})
    parameters = "K*D"

    def start(self, setting: Setting) -> Adapter:
        """K prompts, small and random; no dropout, as in the paper."""
        return FreePrompts(draw_prompts(setting.backbone, 1, setting.config.recipe.num_prompts), dropout=0.0)


class DeepPromptTuning(_PromptTuning):
    """Visual prompt tuning: K free prompts before every block; what a block makes of its prompts is dropped."""

    reach: ClassVar[Reach] = "inner"
    options = frozenset({"num_prompts", "library_rate", "prompt_dropout", "keep"})
    parameters = "L*K*D"

    def start(self, setting: Setting) -> Adapter:
        """K prompts for each block, small and random."""
        config, backbone = setting.config, setting.backbone
        values = draw_prompts(backbone, len(backbone.blocks), config.recipe.num_prompts)
        return FreePrompts(values, config.prompt_dropout)
