"""Devices, processes and precision of a run, on Lightning Fabric (docs/adr/0012).

A run is alone, or one of the processes that `torchrun` started. The config decides what is computed, the processes
only who computes it: a step's micro-batches are dealt out among them, so two processes with a micro-batch each do what
one process does with two.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins import MixedPrecision
from lightning_fabric.strategies.ddp import DDPStrategy
from torch.nn.attention import SDPBackend, sdpa_kernel

from pgn.errors import SetupError, UsageError
from pgn.method.backbone import FrozenBackbone
from training.config import TrainConfig, num_processes
from training.memory import keep_freed_memory

LONGEST_WAIT = timedelta(hours=12)  # of the other processes, while the first one prepares, validates or tests alone


class Autocast(MixedPrecision):
    """bfloat16 where torch's autocast puts it, and nowhere else.

    On a CPU attention is two products and a softmax: torch's fused kernel for CPUs is slow in its backward pass, at a
    ViT's few tokens above all. A step on ViT-Tiny at 112 px takes 0.7 of the time.
    """

    @contextmanager
    def forward_context(self) -> Iterator[None]:
        """Autocast, and on a CPU attention without the fused kernel."""
        with super().forward_context():
            if self.device != "cpu":
                yield
                return
            with sdpa_kernel(SDPBackend.MATH):
                yield

    def convert_input(self, data: Any) -> Any:
        """Leave images as they are: Fabric would cast them, and generators and BatchNorm read them in float32."""
        return data


def launch(config: TrainConfig) -> Fabric:
    """This process's engine, in touch with the others if there are any.

    Raises:
        UsageError: The processes cannot share a step's micro-batches evenly, or are more than the CUDA devices.
    """
    keep_freed_memory()
    processes, here = num_processes(), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if config.accumulate % processes:
        raise UsageError(
            f"{processes} processes cannot share the {config.accumulate} micro-batches of a step evenly",
            hint=f"--accumulate takes a multiple of {processes}",
        )
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and here > torch.cuda.device_count():
        raise UsageError(
            f"{here} processes were started for {torch.cuda.device_count()} CUDA devices",
            hint="torchrun --nproc-per-node takes at most the number of devices",
        )
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # which precision and backend is our own doing
    # Named after CUDA and heard on CPUs too: attention's products stay in bfloat16 where autocast asks for it.
    torch.backends.cuda.allow_fp16_bf16_reduction_math_sdp(True)
    fabric = Fabric(
        accelerator=device,
        devices=here,
        num_nodes=processes // here,
        strategy=DDPStrategy(timeout=LONGEST_WAIT) if processes > 1 else "auto",
        plugins=[Autocast("bf16-mixed", device)] if config.bf16 else [],
    )
    fabric.launch()
    return fabric


def compile_blocks(backbone: FrozenBackbone) -> None:
    """Have torch compile the frozen ViT's blocks, one graph for all of them, when they are first run.

    Raises:
        SetupError: There is no C++ compiler, which the graphs of a CPU need.
    """
    if backbone.normalise.mean.device.type == "cpu" and not any(map(shutil.which, ("c++", "g++", "clang++"))):
        raise SetupError("--compile needs a C++ compiler on a CPU", hint="install g++, or leave --compile away")
    for block in backbone.blocks:
        block.compile()
