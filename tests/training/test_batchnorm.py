"""BatchNorm's rule for a step of several micro-batches."""

from __future__ import annotations

import copy

import pytest
import torch
from lightning_fabric import Fabric
from torch import nn

from training.batchnorm import RunningStatistics

IMAGES = torch.randn(8, 3, 4, 4, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def fabric() -> Fabric:
    """One process."""
    return Fabric(accelerator="cpu", devices=1)


def _step(fabric: Fabric, layer: nn.BatchNorm2d, parts: list[torch.Tensor]) -> None:
    statistics = RunningStatistics(layer)
    with statistics.one_step(fabric):
        for part in parts:
            layer(part)
            statistics.note()


def test_the_statistics_move_to_the_mean_of_what_each_micro_batch_makes_of_them(fabric: Fabric) -> None:
    """In whatever order they come."""
    layer = nn.BatchNorm2d(3)
    alone = []
    for part in (IMAGES[:4], IMAGES[4:]):
        twin = copy.deepcopy(layer)
        twin(part)
        alone.append(twin)
    other = copy.deepcopy(layer)
    _step(fabric, layer, [IMAGES[:4], IMAGES[4:]])
    _step(fabric, other, [IMAGES[4:], IMAGES[:4]])
    for name in ("running_mean", "running_var"):
        wanted = (getattr(alone[0], name) + getattr(alone[1], name)) / 2
        assert torch.equal(getattr(layer, name), wanted)
        assert torch.equal(getattr(other, name), wanted)


def test_one_micro_batch_is_plain_batchnorm(fabric: Fabric) -> None:
    """Nothing changes for who does not accumulate."""
    layer = nn.BatchNorm2d(3)
    plain = copy.deepcopy(layer)
    _step(fabric, layer, [IMAGES])
    plain(IMAGES)
    assert torch.equal(layer.running_mean, plain.running_mean)
    assert torch.equal(layer.running_var, plain.running_var)


def test_a_step_that_fails_leaves_no_trace(fabric: Fabric) -> None:
    """Else a run that goes on from it would not be the run that never stopped."""
    layer = nn.BatchNorm2d(3)
    with pytest.raises(ValueError, match="expected 4D input"):
        _step(fabric, layer, [IMAGES, IMAGES[0, 0]])
    assert torch.equal(layer.running_mean, torch.zeros(3))
    assert torch.equal(layer.running_var, torch.ones(3))


def test_a_model_without_batchnorm_has_nothing_to_keep(fabric: Fabric) -> None:
    """Free prompts, for one."""
    statistics = RunningStatistics(nn.Linear(3, 3))
    with statistics.one_step(fabric):
        statistics.note()
