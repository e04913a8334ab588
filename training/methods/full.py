"""Full fine-tuning: a copy of the ViT that learns with all its weights."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor, nn

from pgn.errors import UsageError
from pgn.method.backbone import FrozenBackbone
from training.engine import compile_blocks
from training.methods.interface import Adapter, Method
from training.patches import embed_kept
from training.result import Reach

if TYPE_CHECKING:
    from training.config import TrainConfig
    from training.setting import Setting


class OwnTower(Adapter):
    """A trainable copy of the frozen ViT; the frozen one is not looked at.

    It stays in eval mode as the original does: CLIP's towers have no dropout, and timm's have none by default.
    """

    def __init__(self, backbone: FrozenBackbone) -> None:
        super().__init__()
        self.tower = copy.deepcopy(backbone).requires_grad_(True)
        if backbone.spec.library == "timm":
            self.tower.vit.head = nn.Identity()  # timm's own classifier is never asked, so it cannot learn

    def forward(self, backbone: FrozenBackbone, inputs: Tensor, kept: Tensor | None) -> Tensor:  # noqa: ARG002
        """(B, 3, S, S) -> (B, num_features) of the copy."""
        return self.tower.encode(embed_kept(self.tower, inputs, kept))


class FullFineTuning(Method):
    """A copy of the ViT learns with all its weights; data sets share nothing any more."""

    reach: ClassVar[Reach] = "weights"
    options = frozenset({"tower_rate", "keep"})
    parameters = "V"
    source = "common practice"

    def check(self, config: TrainConfig, backbone: FrozenBackbone) -> None:
        """The weights are floats."""
        super().check(config, backbone)
        if backbone.spec.precision != "float":
            raise UsageError(
                f"the weights of {backbone.spec.name} are {backbone.spec.precision} and cannot be fine-tuned",
                hint="--backbone names the float folder that it was quantised from",
            )

    def start(self, setting: Setting) -> Adapter:
        """The frozen ViT's weights, copied."""
        own = OwnTower(setting.backbone)
        if setting.config.compile:
            compile_blocks(own.tower)  # a copy of compiled blocks is not compiled
        return own

    def groups(self, adapter: Adapter, config: TrainConfig) -> list[dict[str, Any]]:
        """All weights at one small rate; weight decay on matrices alone, not on norms, biases and single vectors."""
        matrices = [parameter for parameter in adapter.parameters() if parameter.ndim > 1]
        vectors = [parameter for parameter in adapter.parameters() if parameter.ndim <= 1]
        return [
            {"params": matrices, "lr": config.tower_rate, "weight_decay": config.weight_decay},
            {"params": vectors, "lr": config.tower_rate, "weight_decay": 0.0},
        ]
