"""Visual adaptive prompt tuning (VAPT): from the second block on, prompts are made of the patches in front of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pgn.errors import UsageError
from pgn.method.backbone import FrozenBackbone
from training.methods.inner import InnerPrompts, need_plain_tokens
from training.methods.interface import Adapter, Method
from training.methods.vpt import draw_prompts
from training.result import Reach

if TYPE_CHECKING:
    from training.config import TrainConfig
    from training.setting import Setting


class PatchMixer(nn.Module):
    """One layer's own part: norm, a small convolution over the grid of patches, and K weighted sums of what it gives.

    One k x k kernel serves all channels. The sums start at zero, so the prompts do.
    """

    def __init__(self, embed_dim: int, grid: int, kernel: int, num_prompts: int, dropout: float) -> None:
        super().__init__()
        self.grid = grid
        self.norm = nn.LayerNorm(embed_dim)
        self.kernel = nn.Parameter(torch.randn(1, 1, kernel, kernel))
        self.dropout = nn.Dropout1d(dropout)  # whole channels
        self.to_prompts = nn.Linear((grid - kernel + 1) ** 2, num_prompts)
        nn.init.zeros_(self.to_prompts.weight)
        nn.init.zeros_(self.to_prompts.bias)

    def forward(self, patches: Tensor) -> Tensor:
        """(B, g * g, D) -> (B, K, D)."""
        channels = self.norm(patches).transpose(1, 2)  # (B, D, g * g)
        batch, embed_dim, _ = channels.shape
        smooth = F.conv2d(channels.reshape(batch * embed_dim, 1, self.grid, self.grid), self.kernel)
        values = self.dropout(smooth.view(batch, embed_dim, -1))  # (B, D, M), M = (g - k + 1)^2
        prompts: Tensor = self.to_prompts(values).transpose(1, 2)
        return prompts


class AdaptivePrompts(InnerPrompts):
    """Free prompts for the first block, a `PatchMixer` for each other, and one bottleneck that all of them share."""

    reads_grid = True

    def __init__(self, first: Tensor, mixers: list[PatchMixer], rank: int, dropout: float) -> None:
        super().__init__()
        self.num_prompts, embed_dim = first.shape
        self.first = nn.Parameter(first)
        self.mixers = nn.ModuleList(mixers)
        self.narrow = nn.Linear(embed_dim, rank, bias=False)
        self.widen = nn.Linear(rank, embed_dim, bias=False)
        self.dropout = nn.Dropout(dropout)

    def prompts(self, layer: int, own: Tensor) -> Tensor:
        """(B, K, D): `first` at 0, then a + widen(relu(narrow(a))) with a = mixer(patches)."""
        if layer == 0:
            return self.first.expand(len(own), -1, -1)
        with torch.autocast(own.device.type, enabled=False):  # what learns stays in float32
            mixer = self.mixers[layer - 1]
            assert isinstance(mixer, PatchMixer)
            mixed = mixer(own[:, -(mixer.grid**2) :].float())
            return mixed + self.widen(self.dropout(torch.relu(self.narrow(mixed))))


class AdaptivePromptTuning(Method):
    """Visual adaptive prompt tuning: K prompts before every block, from the second on made of the patch tokens there.

    It reads the whole grid of patches, so its training steps see all of them, whatever `--keep` says.
    """

    reach: ClassVar[Reach] = "inner"
    options = frozenset({"num_prompts", "library_rate", "encoder_rate", "prompt_dropout", "vapt_kernel", "vapt_rank"})
    parameters = "K*D + (L - 1)*(k**2 + M*K + K + 2*D) + 2*D*r"
    source = "Le et al., arXiv 2501.18936"

    def check(self, config: TrainConfig, backbone: FrozenBackbone) -> None:
        """Blocks take prompts, and the grid of patches the kernel."""
        super().check(config, backbone)
        need_plain_tokens(backbone, "vapt")
        kernel, grid = config.vapt_kernel, backbone.grid
        if kernel > grid:
            raise UsageError(
                f"a kernel of {kernel} x {kernel} is larger than the {grid} x {grid} patches of {backbone.spec.name}",
                hint=f"--vapt-kernel {grid} at most; the paper's is 2",
            )

    def start(self, setting: Setting) -> Adapter:
        """First prompts as VPT's, kernels from normal(0, 1), all later prompts at zero."""
        config, backbone = setting.config, setting.backbone
        kernel, grid, count = config.vapt_kernel, backbone.grid, config.recipe.num_prompts
        first = draw_prompts(backbone, count)
        mixers = [
            PatchMixer(backbone.embed_dim, grid, kernel, count, config.prompt_dropout) for _ in backbone.blocks[1:]
        ]
        return AdaptivePrompts(first, mixers, config.vapt_rank, config.prompt_dropout)

    def groups(self, adapter: Adapter, config: TrainConfig) -> list[dict[str, Any]]:
        """The first prompts at the prompts' rate; what makes the others at the encoder's."""
        assert isinstance(adapter, AdaptivePrompts)
        rest = [parameter for name, parameter in adapter.named_parameters() if name != "first"]
        return [
            {"params": [adapter.first], "lr": config.recipe.library_rate, "weight_decay": 0.0},
            {"params": rest, "lr": config.recipe.encoder_rate, "weight_decay": config.weight_decay},
        ]
