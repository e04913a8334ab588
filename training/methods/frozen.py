"""Nothing in front of the head: CLIP's zero-shot answer, and a linear head that learns on the frozen features."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor

from pgn.method.backbone import FrozenBackbone
from training.methods.interface import Adapter, Method
from training.patches import embed_kept
from training.result import Reach

if TYPE_CHECKING:
    from training.config import TrainConfig
    from training.setting import Setting


class FrozenFeatures(Adapter):
    """The plain ViT; nothing here learns."""

    def forward(self, backbone: FrozenBackbone, inputs: Tensor, kept: Tensor | None) -> Tensor:
        """(B, 3, S, S) -> (B, num_features)."""
        return backbone.encode(embed_kept(backbone, inputs, kept))


class _PlainViT(Method):
    """What both rows have in common: the ViT as it is."""

    reach: ClassVar[Reach] = "output"
    parameters = "0"

    def start(self, setting: Setting) -> Adapter:  # noqa: ARG002
        """An adapter without parameters."""
        return FrozenFeatures()

    def groups(self, adapter: Adapter, config: TrainConfig) -> list[dict[str, Any]]:  # noqa: ARG002
        """None."""
        return []


class ZeroShot(_PlainViT):
    """CLIP's answer by class texts; nothing learns, and the backbone's folder has to hold the text tower."""

    heads = ("text",)
    head_learns = False
    source = "Radford et al., arXiv 2103.00020"


class LinearHead(_PlainViT):
    """The head alone, through the same loop, augmentation and rates as every other method.

    The logistic regression of `training.probe` is where it starts; it stands in every run as the yardstick.
    """

    head_learns = True
    options = frozenset({"keep"})
    source = "Radford et al., arXiv 2103.00020"
