"""Muon for the matrices inside the blocks, AdamW for everything else.

Source: Jordan et al., "Muon: an optimizer for hidden layers in neural networks", 2024; update size after Liu et al.,
"Muon is scalable for LLM training", 2025. Unlike `torch.optim.Muon` it treats query, key and value as three matrices
and orthogonalises matrices of one shape together.
"""

from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)


def orthogonalise(matrices: Tensor, steps: int = 5) -> Tensor:
    """Bring all singular values of (N, rows, columns) matrices, rows <= columns, to about 1 by Newton-Schulz."""
    a, b, c = NEWTON_SCHULZ
    x: Tensor = matrices / matrices.norm(dim=(1, 2), keepdim=True).clamp_min(1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x


class Muon(Optimizer):
    """Momentum whose step is orthogonalised; weight decay is decoupled.

    Matrices three times as high as wide are fused query, key and value: each third is orthogonalised alone. Only the
    orthogonalisation runs in `precision`; weights and momentum keep their own.
    """

    def __init__(self, matrices: Iterable[nn.Parameter], lr: float, precision: torch.dtype) -> None:
        super().__init__(matrices, {"lr": lr, "momentum": 0.95, "weight_decay": 0.05})
        self.precision = precision

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]  # noqa: ARG002, the base class has it
        """Move every matrix once."""
        for group in self.param_groups:
            parts: dict[tuple[int, int], list[tuple[Tensor, Tensor]]] = defaultdict(list)
            for weight in group["params"]:
                average = self.state[weight].setdefault("average", torch.zeros_like(weight))
                average.mul_(group["momentum"]).add_(weight.grad)
                update = weight.grad.add(average, alpha=group["momentum"])  # Nesterov
                count = 3 if weight.shape[0] == 3 * weight.shape[1] else 1
                for piece, change in zip(weight.chunk(count), update.chunk(count), strict=True):
                    wide = (piece, change) if piece.shape[0] <= piece.shape[1] else (piece.mT, change.mT)
                    parts[wide[0].shape[0], wide[0].shape[1]].append(wide)
            for shape, pairs in parts.items():
                size = 0.2 * max(shape) ** 0.5  # the root mean square of an AdamW step
                changes = orthogonalise(torch.stack([change for _, change in pairs]).to(self.precision))
                for (piece, _), change in zip(pairs, changes, strict=True):
                    piece.mul_(1 - group["lr"] * group["weight_decay"]).add_(change, alpha=-group["lr"] * size)


def build_optimisers(student: nn.Module, heads: nn.Module, lr: float, precision: torch.dtype) -> list[Optimizer]:
    """Return Muon for the blocks' matrices and AdamW, without weight decay, for the rest and the loss heads.

    The patch projection is in the second group on purpose: decay would shrink its small singular values first.
    """
    matrices = [p for name, p in student.named_parameters() if ".resblocks." in name and p.ndim == 2]
    chosen = set(map(id, matrices))
    rest = [p for p in [*student.parameters(), *heads.parameters()] if p.requires_grad and id(p) not in chosen]
    return [
        Muon(matrices, lr=lr, precision=precision),
        torch.optim.AdamW(rest, lr=lr, betas=(0.9, 0.98), weight_decay=0.0),
    ]
