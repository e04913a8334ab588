"""From the frozen ViT's features to class scores: a linear head, CLIP's class texts, or class prototypes.

Text and prototypes are class embeddings compared by cosine, scaled as CLIP does; a linear head has a bias. Whatever
its origin, a head is one (C, features) matrix, which is what a bundle carries.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pgn.bundle import Bundle, HeadSpec
from pgn.errors import DataInvalid, UsageError

CLIP_LOGIT_SCALE = 100.0  # exp(4.6052), what OpenAI's weights carry


class Head(nn.Module):
    """Features to logits.

    Args:
        spec: Its kind and scale.
        weight: (C, features).
        bias: (C), for a linear head alone.
    """

    def __init__(self, spec: HeadSpec, weight: Tensor, bias: Tensor | None = None) -> None:
        super().__init__()
        self.spec = spec
        self.weight = nn.Parameter(weight)
        self.bias = None if bias is None else nn.Parameter(bias)

    def forward(self, features: Tensor) -> Tensor:
        """(B, features) -> (B, C) logits."""
        if self.spec.kind == "linear":
            return F.linear(features, self.weight, self.bias)
        return self.spec.logit_scale * F.normalize(features, dim=-1) @ F.normalize(self.weight, dim=-1).T


def linear_head(weight: Tensor, bias: Tensor) -> Head:
    """W z + b with these (C, features) weights and (C) bias."""
    return Head(HeadSpec(kind="linear", features=weight.shape[1]), weight, bias)


def text_head(class_embeddings: Tensor, logit_scale: float = CLIP_LOGIT_SCALE) -> Head:
    """Scaled cosine with the (C, features) embeddings of the class texts."""
    return Head(HeadSpec(kind="text", features=class_embeddings.shape[1], logit_scale=logit_scale), class_embeddings)


def prototype_head(features: Tensor, labels: Tensor, num_classes: int, logit_scale: float = CLIP_LOGIT_SCALE) -> Head:
    """Scaled cosine with the mean direction of each class.

    Args:
        features: (M, features) of training images.
        labels: (M) int64 in [0, num_classes).
        num_classes: C; every class needs an image.
        logit_scale: Factor on the cosine.

    Raises:
        DataInvalid: A class has no image.
    """
    counts = torch.bincount(labels, minlength=num_classes)
    if (counts == 0).any():
        raise DataInvalid(f"class number {int((counts == 0).nonzero()[0])} has no training image")
    sums = features.new_zeros(num_classes, features.shape[1]).index_add_(0, labels, F.normalize(features, dim=-1))
    spec = HeadSpec(kind="prototypes", features=features.shape[1], logit_scale=logit_scale)
    return Head(spec, sums / counts[:, None])


def embed_class_texts(
    clip: nn.Module, tokenizer: Callable[[list[str]], Tensor], classes: Sequence[str], template: str
) -> Tensor:
    """The (C, features) unit-length text embeddings of `template` filled with each class name.

    Args:
        clip: An open_clip model with its text tower.
        tokenizer: The one of the same model.
        classes: Class names, as a person writes them.
        template: A sentence with one {}.

    Raises:
        UsageError: The template has no {} or more than one.
    """
    if template.count("{}") != 1:
        raise UsageError(f"the template {template!r} must hold exactly one {{}}", hint="e.g. 'a photo of a {}'")
    tokens = tokenizer([template.replace("{}", name) for name in classes])
    encode_text: Any = clip.encode_text
    with torch.no_grad():
        return F.normalize(encode_text(tokens).float(), dim=-1)


def load_head(bundle: Bundle) -> Head:
    """The bundle's head, frozen, on the CPU, where its weights are those of the bundle: no copy."""
    bias = bundle.tensors.get("head.bias")
    weight = torch.from_numpy(bundle.tensors["head.weight"])
    head = Head(bundle.manifest.head, weight, None if bias is None else torch.from_numpy(bias))
    return head.eval().requires_grad_(False)
