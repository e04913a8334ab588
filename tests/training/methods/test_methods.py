"""Every method keeps the interface."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from training.config import TrainConfig
from training.methods import METHODS
from training.methods.prompted import PromptedAdapter
from training.setting import prepare


@pytest.mark.parametrize("name", METHODS)
def test_a_method_gives_features_and_learns_with_all_its_parameters(
    name: str, make_config: Callable[..., TrainConfig]
) -> None:
    """Features fit the head; each parameter is in exactly one group, and each gets a gradient."""
    method, setting = METHODS[name], prepare(make_config(method=name))
    adapter = method.start(setting)
    features = adapter(setting.backbone, torch.randn(5, 3, 32, 32), None)
    assert features.shape == (5, 16)
    features.square().sum().backward()
    grouped = [parameter for group in method.groups(adapter, setting.config) for parameter in group["params"]]
    assert {id(p) for p in grouped} == {id(p) for p in adapter.parameters()}
    assert len(grouped) == len({id(p) for p in grouped})
    assert all(parameter.grad is not None for parameter in grouped)


def test_prompts_of_a_fresh_pgn_already_depend_on_the_image(make_config: Callable[..., TrainConfig]) -> None:
    """Its start leans on tokens, it is not stuck on them."""
    torch.manual_seed(0)
    adapter = METHODS["pgn"].start(prepare(make_config()))
    assert isinstance(adapter, PromptedAdapter)
    first, second = adapter.generator(torch.randn(2, 3, 32, 32))
    assert not torch.allclose(first, second)
