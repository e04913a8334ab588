"""Devices and processes."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from pgn.errors import SetupError, UsageError
from pgn.method.backbone import load_backbone
from training.config import TrainConfig
from training.engine import compile_blocks, launch

MakeConfig = Callable[..., TrainConfig]


def test_alone_a_process_is_the_first_of_one(make_config: MakeConfig) -> None:
    """No launcher is needed."""
    fabric = launch(make_config())
    assert fabric.is_global_zero
    assert fabric.world_size == 1


def test_bfloat16_is_autocasts_choice_alone(make_config: MakeConfig) -> None:
    """Images reach a generator in float32; only what autocast covers is computed in less."""
    seen = {}

    class Probe(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(3, 2)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            seen["images"], seen["layer"] = images.dtype, self.layer(images).dtype
            return self.layer(images)

    result = launch(make_config(bf16=True)).setup_module(Probe())(torch.zeros(1, 3))
    assert seen == {"images": torch.float32, "layer": torch.bfloat16}
    assert result.dtype == torch.float32


def test_attention_on_a_cpu_is_not_the_fused_kernel(make_config: MakeConfig) -> None:
    """In bfloat16 its backward pass takes longer than all else in a small ViT."""

    class Attention(torch.nn.Module):
        def forward(self, tokens: torch.Tensor) -> torch.Tensor:
            half = tokens.bfloat16()
            return torch.nn.functional.scaled_dot_product_attention(half, half, half)

    tokens = torch.zeros(1, 1, 4, 8, requires_grad=True)
    assert "Flash" in Attention()(tokens).grad_fn.name()
    fabric = launch(make_config(bf16=True))
    if fabric.device.type != "cpu":
        pytest.skip("this machine has a GPU, whose fused kernels are fast")
    names, todo = set(), [fabric.setup_module(Attention())(tokens).grad_fn]
    while todo:
        node = todo.pop()
        names.add(node.name())
        todo += [before for before, _ in node.next_functions if before is not None]
    assert "BmmBackward0" in names
    assert not any("Flash" in name for name in names)


def test_micro_batches_have_to_be_shared_evenly(make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else one process would wait for the other at every step, or the result depend on their number."""
    config = make_config(accumulate=3)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UsageError, match=r"2 processes cannot share the 3 micro-batches.*a multiple of 2"):
        launch(config)


def test_more_processes_than_devices_are_refused(make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two on one GPU would only be slower."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(UsageError, match="2 processes were started for 1 CUDA devices"):
        launch(make_config())


def test_without_a_compiler_compile_is_refused(backbone_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At once, not as a traceback of torch's own at the first step."""
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(SetupError, match=r"--compile needs a C\+\+ compiler"):
        compile_blocks(load_backbone(backbone_folder))
