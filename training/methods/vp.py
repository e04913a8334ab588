"""Visual prompting (VP): one learned frame of pixels, added to every image."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from pgn.errors import UsageError
from pgn.method.backbone import FrozenBackbone
from training.methods.interface import Adapter, Method
from training.patches import embed_kept
from training.result import Reach

if TYPE_CHECKING:
    from training.config import TrainConfig
    from training.setting import Setting

PAPER_FRAME = 30 / 224  # of the side


class PixelFrame(Adapter):
    """A border of p learned pixels on the normalised image: two bars as wide as it, two between them.

    Nothing is clamped, as in the paper: the sum may leave the range that an image file can hold.
    """

    def __init__(self, side: int, width: int, std: float) -> None:
        super().__init__()
        between = side - 2 * width
        self.top, self.bottom = (nn.Parameter(std * torch.randn(3, width, side)) for _ in range(2))
        self.left, self.right = (nn.Parameter(std * torch.randn(3, between, width)) for _ in range(2))

    def frame(self) -> Tensor:
        """(3, S, S): the border around zeros."""
        between = self.left.shape[1]
        inside = self.left.new_zeros(3, between, between)
        return torch.cat([self.top, torch.cat([self.left, inside, self.right], dim=2), self.bottom], dim=1)

    def forward(self, backbone: FrozenBackbone, inputs: Tensor, kept: Tensor | None) -> Tensor:
        """(B, 3, S, S) -> (B, num_features)."""
        with torch.autocast(inputs.device.type, enabled=False):  # the frame is added in float32
            tokens = embed_kept(backbone, inputs + self.frame(), kept)
        return backbone.encode(tokens)


class VisualPrompting(Method):
    """Visual prompting: a frame of p pixels, the same for every image, added to it.

    The paper starts it from normal(0, 1) and trains for 1,000 epochs at a rate of 40. That start hides the border of
    every image under noise, and a head that starts as the linear probe answers by chance (docs/methods.md). By default
    the frame starts at zero, so the first answer is the probe's; `--frame-std 1` is the paper's start.
    """

    reach: ClassVar[Reach] = "input"
    options = frozenset({"frame", "frame_std", "library_rate", "keep"})
    parameters = "12*p*(S - p)"
    source = "Bahng et al., arXiv 2203.17274"

    def check(self, config: TrainConfig, backbone: FrozenBackbone) -> None:
        """The frame leaves some image."""
        super().check(config, backbone)
        side, width = _frame(config, backbone)
        if 2 * width >= side:
            raise UsageError(
                f"a frame of {width} px leaves nothing of an image of {side} px",
                hint=f"--frame {round(PAPER_FRAME * side)} is the paper's share",
            )

    def start(self, setting: Setting) -> Adapter:
        """A frame as wide as the paper's 30 of 224 pixels, unless the config says otherwise."""
        return PixelFrame(*_frame(setting.config, setting.backbone), setting.config.frame_std)

    def groups(self, adapter: Adapter, config: TrainConfig) -> list[dict[str, Any]]:
        """One group, at the prompts' rate."""
        return [{"params": [*adapter.parameters()], "lr": config.recipe.library_rate, "weight_decay": 0.0}]


def _frame(config: TrainConfig, backbone: FrozenBackbone) -> tuple[int, int]:
    """Side of the image and width of its frame, in pixels."""
    side = backbone.grid * backbone.patch_size
    return side, config.frame or max(1, round(PAPER_FRAME * side))
