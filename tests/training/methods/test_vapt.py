"""Visual adaptive prompt tuning: its size, its start, and its formula step by step."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F

from pgn.errors import UsageError
from training.methods import METHODS
from training.methods.vapt import AdaptivePrompts, PatchMixer
from training.result import count_parameters
from training.setting import Setting

INPUTS = torch.randn(5, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def _started(make_setting: Callable[..., Setting], kind: str = "tower") -> tuple[Setting, AdaptivePrompts]:
    setting = make_setting(kind, method="vapt")
    adapter = METHODS["vapt"].start(setting)
    assert isinstance(adapter, AdaptivePrompts)
    return setting, adapter.eval()


@pytest.mark.parametrize(
    ("num_prompts", "count"), [(5, 42_418), (10, 55_608), (20, 81_988), (50, 161_128), (100, 293_028)]
)
def test_its_size_is_the_papers_to_the_unit(num_prompts: int, count: int) -> None:
    """ViT-B/16: D 768, twelve layers, 14 x 14 patches, kernel 2, rank 8."""
    mixers = [PatchMixer(768, 14, 2, num_prompts, 0.1) for _ in range(11)]
    adapter = AdaptivePrompts(torch.zeros(num_prompts, 768), mixers, 8, 0.1)
    assert count_parameters(adapter.parameters()) == count


@pytest.mark.parametrize("kind", ["tower", "supervised", "dino"])
def test_adaptive_prompts_start_at_zero(kind: str, make_setting: Callable[..., Setting]) -> None:
    """Whatever the image; the prompts of the first layer do not."""
    setting, adapter = _started(make_setting, kind)
    own = setting.backbone.embed(INPUTS)
    assert (adapter.prompts(1, own) == 0).all()
    assert (adapter.prompts(0, own) != 0).any()


@pytest.mark.parametrize("kind", ["tower", "dino"])
def test_prompts_of_a_later_layer_follow_the_formula(kind: str, make_setting: Callable[..., Setting]) -> None:
    """Norm, one kernel for all channels, sums over places, and the shared bottleneck on top; registers stay out."""
    setting, adapter = _started(make_setting, kind)
    mixer = adapter.mixers[0]
    for parameter in adapter.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    own = torch.randn(5, setting.backbone.num_prefix + 16, 32)
    image = F.layer_norm(own[:, -16:], (32,), mixer.norm.weight, mixer.norm.bias).mT.reshape(5, 32, 4, 4)
    smooth = F.conv2d(image, mixer.kernel.expand(32, 1, 2, 2), groups=32)  # (5, 32, 3, 3)
    mixed = (
        torch.einsum("bdm,km->bkd", smooth.flatten(2), mixer.to_prompts.weight) + mixer.to_prompts.bias[None, :, None]
    )
    wanted = mixed + torch.relu(mixed @ adapter.narrow.weight.T) @ adapter.widen.weight.T
    assert torch.allclose(adapter.prompts(1, own), wanted, atol=1e-5)


def test_prompts_come_to_depend_on_the_image(make_setting: Callable[..., Setting]) -> None:
    """Two images, two sets of prompts, once the sums are no longer zero."""
    setting, adapter = _started(make_setting)
    torch.nn.init.normal_(adapter.mixers[0].to_prompts.weight)
    first, second, *_ = adapter.prompts(1, setting.backbone.embed(INPUTS))
    assert not torch.allclose(first, second)


def test_a_kernel_larger_than_the_grid_is_refused(make_setting: Callable[..., Setting]) -> None:
    """The message names both."""
    with pytest.raises(UsageError, match=r"a kernel of 5 x 5 is larger than the 4 x 4 patches of toy"):
        make_setting(method="vapt", vapt_kernel=5)
