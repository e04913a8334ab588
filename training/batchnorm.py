"""BatchNorm's rule for a step of several micro-batches, on one process or shared among several.

Each micro-batch is normalised by its own statistics. The running statistics, which answer later in eval mode, move
once a step: to the mean of what each micro-batch alone would have made of them. So they do not depend on who computed
which micro-batch, nor on the order.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn


class RunningStatistics:
    """The running means and variances of all BatchNorm layers in `model`, as one vector."""

    def __init__(self, model: nn.Module) -> None:
        self._buffers: list[Tensor] = [
            buffer
            for layer in model.modules()
            if isinstance(layer, nn.modules.batchnorm._BatchNorm)
            for buffer in (layer.running_mean, layer.running_var)
            if buffer is not None
        ]
        self._found: list[Tensor] = []

    @contextmanager
    def one_step(self, fabric: Fabric) -> Iterator[None]:
        """Around a step's micro-batches, each followed by `note`; if one of them fails, nothing has moved."""
        if not self._buffers:
            yield
            return
        self._start, self._found = self._read(), []
        try:
            yield
        except BaseException:
            self._write(self._start)
            raise
        reduced = fabric.all_reduce(torch.stack(self._found).mean(0), reduce_op="mean")
        assert isinstance(reduced, Tensor)  # as what was given
        self._write(reduced)

    def note(self) -> None:
        """Take down what a micro-batch made of the statistics, and go back to the step's start."""
        if self._buffers:
            self._found.append(self._read())
            self._write(self._start)

    def _read(self) -> Tensor:
        return torch.cat([buffer.flatten() for buffer in self._buffers])

    def _write(self, values: Tensor) -> None:
        for buffer, part in zip(self._buffers, values.split([b.numel() for b in self._buffers]), strict=True):
            buffer.copy_(part.view_as(buffer))
