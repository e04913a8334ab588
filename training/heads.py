"""From features to class scores while training: a linear head, or class embeddings; each may learn or stay fixed."""

from __future__ import annotations

import math
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import Self

from pgn.bundle import Bundle
from pgn.method.head import Head, prototype_head, text_head
from training.features import plain_features
from training.methods import METHODS, head_learns
from training.probe import LinearProbe, fold
from training.setting import Setting


class LearnedHead(nn.Module):
    """A linear head that learns on standardised features, so that one rate suits every backbone.

    `plain` folds the standardisation away.

    Args:
        weight: (C, features), for standardised features.
        bias: (C).
        mean: (features) of the raw features.
        std: (features) of the raw features.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, weight: Tensor, bias: Tensor, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight.clone())
        self.bias = nn.Parameter(bias.clone())
        self.register_buffer("mean", mean.clone())  # loading a state writes into a buffer, and these are the probe's
        self.register_buffer("std", std.clone())

    @classmethod
    def at_probe(cls, probe: LinearProbe) -> Self:
        """Starts as the linear probe."""
        return cls(probe.weight, probe.bias, probe.mean, probe.std)

    @classmethod
    def fresh(cls, num_classes: int, features: int) -> Self:
        """Starts at random, as torch's linear layers do; for features that are not yet any good."""
        limit = 1 / math.sqrt(features)
        weight = torch.empty(num_classes, features).uniform_(-limit, limit)
        return cls(weight, torch.zeros(num_classes), torch.zeros(features), torch.ones(features))

    def forward(self, features: Tensor) -> Tensor:
        """(B, features) -> (B, C) logits."""
        return F.linear((features - self.mean) / self.std, self.weight, self.bias)

    @torch.no_grad()
    def plain(self) -> Head:
        """The same head on raw features, as a bundle carries it."""
        return fold(self.weight, self.bias, self.mean, self.std)

    @torch.no_grad()
    def carry_over(self, bundle: Bundle, classes: tuple[str, ...]) -> None:
        """Take the rows of the classes that `bundle` knows; new classes keep theirs, and other kinds of head give none.

        Args:
            bundle: Of the same backbone.
            classes: Names of this head's rows.
        """
        rows = shared_rows(bundle, classes)
        if not rows:
            return
        weight, bias = (torch.from_numpy(bundle.tensors[f"head.{name}"].copy()) for name in ("weight", "bias"))
        for row, theirs in rows.items():
            self.weight[row] = weight[theirs] * self.std
            self.bias[row] = bias[theirs] + weight[theirs] @ self.mean


def shared_rows(bundle: Bundle, classes: tuple[str, ...]) -> dict[int, int]:
    """Row in the bundle's linear head of each class that both know, by its row here."""
    if bundle.manifest.head.kind != "linear":
        return {}
    known = {name: row for row, name in enumerate(bundle.manifest.classes)}
    return {row: known[name] for row, name in enumerate(classes) if name in known}


class PlainHead(nn.Module):
    """A head as a bundle carries it, which learns or stays: class embeddings, or the linear probe itself."""

    def __init__(self, head: Head, *, learns: bool) -> None:
        super().__init__()
        self.head = head.requires_grad_(learns)

    def forward(self, features: Tensor) -> Tensor:
        """(B, features) -> (B, C) logits."""
        logits: Tensor = self.head(features)
        return logits

    def plain(self) -> Head:
        """The head itself."""
        return self.head


TrainingHead: TypeAlias = LearnedHead | PlainHead


def start_head(setting: Setting) -> TrainingHead:
    """The head that the config asks for, with the rows of bundles that the run starts from.

    Raises:
        BackboneInvalid: Class texts were asked for, and the backbone's folder has no text tower.
        UsageError: The template has no {} or more than one.
        ArtefactError: A bundle to start from does not verify.
    """
    config, classes = setting.config, setting.dataset.classes
    method = METHODS[config.method]
    width = method.own_features(config)
    if width is not None:
        return LearnedHead.fresh(len(classes), width)
    learns = head_learns(config)
    if config.head != "linear":
        return PlainHead(_class_embeddings(setting), learns=learns)
    if not learns:
        return PlainHead(setting.probe.head(), learns=False)
    head = LearnedHead.at_probe(setting.probe)
    for bundle in setting.starts:
        head.carry_over(bundle, classes)
    return head


def _class_embeddings(setting: Setting) -> Head:
    config, texts = setting.config, setting.dataset.class_texts
    if config.head == "prototypes":
        features = plain_features(setting.backbone, setting.train, config.cache)
        return prototype_head(features, setting.train.labels, len(texts))
    from training.backbones.clip import class_texts  # open_clip is slow to import, and only text needs it

    if config.template is None:  # each class in the sentence of its own set
        return text_head(*class_texts(config.backbone, [text.sentence() for text in texts], "{}"))
    return text_head(*class_texts(config.backbone, [text.name for text in texts], config.template))
