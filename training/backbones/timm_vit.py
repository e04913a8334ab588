"""ViTs of timm as backbone folders: supervised, DINO and the like, at the size they were trained at or another."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import timm
from timm.data.config import resolve_model_data_config
from timm.layers.activations import QuickGELU
from timm.models import VisionTransformer
from torch import nn

from pgn.backbone_spec import BackboneSpec, Preprocess
from pgn.errors import BackboneInvalid, UsageError
from pgn.method.backbone import save_backbone
from training.backbones.hub import clear_hub_errors

HUB = "hub"


def fetch_timm(model: str, pretrained: str, folder: Path, *, image_size: int | None = None) -> str:
    """Put a ViT of timm into a backbone folder and return the backbone's digest.

    Args:
        model: A ViT of timm, with or without its tag, e.g. `vit_small_patch16_224.dino`. Tag or name decide how images
            are normalised, also for weights from a file.
        pretrained: "hub", or a weights file of that model.
        folder: Where it goes.
        image_size: Side in pixels, if not the model's own; timm then resizes the positions. Whole patches.

    Raises:
        UsageError: No such model or tag, weights that cannot be had or do not fit, or a size of no whole number of
            patches.
        BackboneInvalid: Not a plain ViT, or an activation that is neither GELU nor quick-GELU.
    """
    architecture, _, tag = model.partition(".")
    if architecture not in timm.list_models(module="vision_transformer"):
        raise UsageError(f"timm knows no plain ViT {model!r}", hint="e.g. vit_small_patch16_224.dino")
    if pretrained != HUB and not Path(pretrained).exists():
        raise UsageError(f"there is no weights file {pretrained}", hint="name one, or leave it away to ask the hub")
    tags = [known.partition(".")[2] for known in timm.list_pretrained(f"{architecture}.*")]
    if tag and tag not in tags:
        raise UsageError(
            f"timm has no weights {tag!r} for {architecture}",
            hint=f"its tags are {', '.join(tags)}" if tags else "it has no tags: give a weights file",
        )
    overlay = {} if pretrained == HUB else {"file": pretrained}
    options: dict[str, Any] = {"num_classes": 0, **({} if image_size is None else {"img_size": image_size})}
    with clear_hub_errors(f"timm could not load {model} with {pretrained!r}", from_hub=pretrained == HUB):
        vit = timm.create_model(model, pretrained=True, pretrained_cfg_overlay=overlay, **options)
    return save_timm(vit, model, folder)


def save_timm(vit: nn.Module, model: str, folder: Path) -> str:
    """Write a ViT of timm, its classifier taken off, as a backbone folder; returns the backbone's digest."""
    if not isinstance(vit, VisionTransformer):
        raise BackboneInvalid(f"timm's {model} is a {type(vit).__name__}, no plain ViT")
    activation = vit.get_submodule("blocks.0.mlp").act
    if not isinstance(activation, nn.GELU | QuickGELU):
        raise BackboneInvalid(f"timm's {model} uses {type(activation).__name__}; gelu and quick_gelu can be served")
    (side, _), (patch, _) = vit.patch_embed.img_size, vit.patch_embed.patch_size
    if side % patch:
        raise UsageError(f"{side} px are no whole number of patches of {patch} px", hint="choose another --image-size")
    looks = resolve_model_data_config(vit)
    spec = BackboneSpec(
        name=f"{model}-{side}px",
        library="timm",
        architecture={"model": model.partition(".")[0], "img_size": side, "num_classes": 0},
        activation="quick_gelu" if isinstance(activation, QuickGELU) else "gelu",
        preprocess=Preprocess(size=side, interpolation=looks["interpolation"], mean=looks["mean"], std=looks["std"]),
        weights_sha256="0" * 64,
    )
    return save_backbone(folder, vit, spec)
