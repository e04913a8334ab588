"""A pretrained ViT becomes a backbone folder, whichever library knows it."""

from __future__ import annotations

from pathlib import Path

import open_clip

from pgn.errors import UsageError
from training.backbones.clip import fetch_clip
from training.backbones.timm_vit import HUB, fetch_timm


def fetch(
    model: str,
    pretrained: str | None,
    folder: Path,
    *,
    activation: str | None = None,
    image_size: int | None = None,
) -> str:
    """Put a ViT of open_clip or timm into a backbone folder and return the backbone's digest.

    Args:
        model: A configuration of open_clip, or else a model of timm.
        pretrained: A weights file, or for open_clip a tag of its hub; None asks the hub for the usual weights.
        folder: Where it goes.
        activation: Of a weights file for open_clip; timm's models name their own.
        image_size: Another side in pixels than the model's own; timm alone.

    Raises:
        UsageError, BackboneInvalid: As `fetch_clip` and `fetch_timm` do, or an option that is the other library's.
    """
    if open_clip.get_model_config(model) is not None:
        if image_size is not None:
            raise UsageError(f"open_clip's {model} has one size", hint="leave --image-size away")
        return fetch_clip(model, pretrained or "openai", folder, activation=activation)
    if activation is not None:
        raise UsageError(f"{model} is timm's, whose models say their activation", hint="leave --activation away")
    return fetch_timm(model, pretrained or HUB, folder, image_size=image_size)
