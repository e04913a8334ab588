"""Every inner value of a bundle on some of its images, from one pass: prompts, mixtures, features and attention."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pgn.method.generator import PromptGenerator
from pgn.method.predictor import Predictor
from training.analysis.attention import class_attention
from training.analysis.subject import Subject
from training.features import EVAL_BATCH

MOST_IMAGES = 1000  # prompts of so many fit in memory; a picture of more would show no more


@dataclass(frozen=True)
class Study:
    """Values of M images, on the CPU in float32.

    Attributes:
        indices: (M) which images of the subject's split.
        labels: (M) their classes.
        prompts: (M, K, D).
        mixture: (M, K, N) shares of the library's tokens in each prompt; None without a library.
        frozen: (M, features) of the ViT without prompts.
        combined: (M, features) of the ViT with them.
        attention_plain: (M, patches) what the class token pays to each patch in the last block without prompts.
        attention: (M, patches + K) the same with prompts, which come last. What is missing to 1 goes to the ViT's
            class and register tokens.
    """

    indices: Tensor
    labels: Tensor
    prompts: Tensor
    mixture: Tensor | None
    frozen: Tensor
    combined: Tensor
    attention_plain: Tensor
    attention: Tensor


def study(subject: Subject, *, most: int = MOST_IMAGES) -> Study:
    """Look into the subject on at most so many of its images, drawn at random, always the same."""
    count = len(subject.images)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(0))
    indices = order[: min(most, count)].sort().values
    parts = [_look(subject.predictor, subject.images.pixels(part)) for part in indices.split(EVAL_BATCH)]
    joined = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    labels = subject.images.labels[indices]
    return Study(indices=indices, labels=labels, mixture=joined.pop("mixture", None), **joined)


@torch.inference_mode()
def _look(predictor: Predictor, pixels: Tensor) -> dict[str, Tensor]:
    backbone, generator = predictor.backbone, predictor.generator
    inputs = backbone.normalise(pixels)
    prompts = generator(inputs)
    frozen, attention_plain = class_attention(backbone, inputs, None)
    combined, attention = class_attention(backbone, inputs, prompts)
    values = {
        "prompts": prompts,
        "frozen": frozen,
        "combined": combined,
        "attention_plain": attention_plain,
        "attention": attention,
    }
    if isinstance(generator, PromptGenerator):
        values["mixture"] = generator.mixture(inputs)
    return {name: value.float().cpu() for name, value in values.items()}
