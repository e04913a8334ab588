"""Every method keeps the interface."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from pgn.method.backbone import load_backbone
from training.config import TrainConfig
from training.methods import METHODS


@pytest.mark.parametrize("name", METHODS)
def test_a_method_writes_prompts_and_learns_with_all_its_parameters(
    name: str, make_config: Callable[..., TrainConfig], backbone_folder: Path
) -> None:
    """Prompts fit the backbone; each parameter is in exactly one group, and each gets a gradient."""
    method, config, backbone = METHODS[name], make_config(method=name), load_backbone(backbone_folder)
    generator = method.start(method.spec(config, backbone), torch.randn(100, 32))
    prompts = generator(torch.randn(5, 3, 32, 32))
    assert prompts.shape == (5, 4, 32)
    prompts.square().sum().backward()
    grouped = [parameter for group in method.groups(generator, config) for parameter in group["params"]]
    assert {id(p) for p in grouped} == {id(p) for p in generator.parameters()}
    assert len(grouped) == len({id(p) for p in grouped})
    assert all(parameter.grad is not None for parameter in grouped)


def test_prompts_of_a_fresh_pgn_already_depend_on_the_image(
    make_config: Callable[..., TrainConfig], backbone_folder: Path
) -> None:
    """Its start leans on tokens, it is not stuck on them."""
    method = METHODS["pgn"]
    torch.manual_seed(0)
    generator = method.start(method.spec(make_config(), load_backbone(backbone_folder)), torch.randn(100, 32))
    first, second = generator(torch.randn(2, 3, 32, 32))
    assert not torch.allclose(first, second)
