"""How good logits are: top-1, top-5, mean loss, and top-1 of each data set of a union."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from pgn.method.backbone import FrozenBackbone
from pgn.method.head import Head
from training.data.images import Images
from training.features import EVAL_BATCH
from training.methods.interface import Adapter


class Scores(BaseModel):
    """Shares in 0..1. `balanced` is the mean of top-1 over the sets of a union, else top-1 itself."""

    model_config = ConfigDict(frozen=True)

    images: int
    top1: float
    top5: float
    loss: float
    balanced: float
    by_source: dict[str, float] = {}

    def brief(self) -> dict[str, Any]:
        """As plain data, rounded for a manifest; `by_source` only for a union."""
        data = self.model_dump(exclude=set() if self.by_source else {"by_source", "balanced"})
        return {name: round(value, 5) if isinstance(value, float) else value for name, value in data.items()}


def top1(brief: dict[str, Any]) -> float:
    """The share that is compared, of `Scores.brief()`: top-1, of a union the mean over its sets."""
    return float(brief.get("balanced", brief["top1"]))


def score(logits: Tensor, labels: Tensor, class_sources: Sequence[str] | None = None) -> Scores:
    """Compare (M, C) logits with (M) labels; with fewer than five classes, top-5 asks for any of them."""
    ranked = logits.topk(min(5, logits.shape[1]), dim=1).indices
    hits = (ranked == labels[:, None]).float()  # (M, 5), at most one 1 in a row
    by_source = {
        source: hits[of_source, 0].mean().item()
        for source in dict.fromkeys(class_sources or ())
        if (of_source := _belongs(labels, class_sources, source)).any()
    }
    top1 = hits[:, 0].mean().item()
    return Scores(
        images=len(labels),
        top1=top1,
        top5=hits.sum(1).mean().item(),
        loss=F.cross_entropy(logits, labels).item(),
        balanced=sum(by_source.values()) / len(by_source) if by_source else top1,
        by_source=by_source,
    )


def _belongs(labels: Tensor, class_sources: Sequence[str] | None, source: str) -> Tensor:
    return torch.tensor([name == source for name in class_sources or ()])[labels]


@torch.inference_mode()
def logits_of(backbone: FrozenBackbone, adapter: Adapter, head: Head, images: Images) -> Tensor:
    """(M, C) float32 logits of all images, in their order; the adapter is put into eval mode."""
    adapter.eval()
    rows = []
    for pixels in images.in_parts(EVAL_BATCH):
        rows.append(head(adapter(backbone, backbone.normalise(pixels), None)).cpu())
    return torch.cat(rows)
