"""From features to class scores while training: a linear head that learns, or class embeddings that stay fixed."""

from __future__ import annotations

from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pgn.method.head import Head, prototype_head, text_head
from training.features import plain_features
from training.probe import LinearProbe, fold
from training.setting import Setting


class LearnedHead(nn.Module):
    """A linear head that starts as the linear probe.

    It learns on standardised features, so that one rate suits every backbone; `plain` folds that away.
    """

    def __init__(self, probe: LinearProbe) -> None:
        super().__init__()
        self.weight = nn.Parameter(probe.weight.clone())
        self.bias = nn.Parameter(probe.bias.clone())
        self.register_buffer("mean", probe.mean)
        self.register_buffer("std", probe.std)

    def forward(self, features: Tensor) -> Tensor:
        """(B, features) -> (B, C) logits."""
        return F.linear((features - self.mean) / self.std, self.weight, self.bias)

    @torch.no_grad()
    def plain(self) -> Head:
        """The same head on raw features, as a bundle carries it."""
        return fold(self.weight, self.bias, self.mean, self.std)


class FixedHead(nn.Module):
    """Class embeddings compared by scaled cosine; nothing in it learns."""

    def __init__(self, head: Head) -> None:
        super().__init__()
        self.head = head.eval().requires_grad_(False)

    def forward(self, features: Tensor) -> Tensor:
        """(B, features) -> (B, C) logits."""
        logits: Tensor = self.head(features)
        return logits

    def plain(self) -> Head:
        """The head itself."""
        return self.head


TrainingHead: TypeAlias = LearnedHead | FixedHead


def start_head(setting: Setting) -> TrainingHead:
    """The head that the config asks for.

    Raises:
        BackboneInvalid: Class texts were asked for, and the backbone's folder has no text tower.
        UsageError: The template has no {} or more than one.
    """
    config = setting.config
    if config.head == "linear":
        return LearnedHead(setting.probe)
    if config.head == "prototypes":
        features = plain_features(setting.backbone, setting.train, config.cache)
        return FixedHead(prototype_head(features, setting.train.labels, len(setting.dataset.classes)))
    from training.backbones.clip import class_texts  # open_clip is slow to import, and only text needs it

    return FixedHead(text_head(*class_texts(config.backbone, setting.dataset.classes, setting.template)))
