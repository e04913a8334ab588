"""CLIP models of open_clip as backbone folders: the vision tower to serve, the text tower to name classes with.

`fetch_clip` needs open_clip's hub once, or a weights file. The folder then holds `model.safetensors` and
`backbone.json`, which are all a server reads, and `text.safetensors`, which only training reads.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip.model import QuickGELU
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from pgn.backbone_spec import BackboneSpec, Preprocess
from pgn.errors import BackboneInvalid, UsageError
from pgn.method.backbone import save_backbone
from pgn.method.head import embed_class_texts
from training.backbones.hub import clear_hub_errors

TEXT_FILE = "text.safetensors"
_MODEL_KEY = "open_clip_model"


def fetch_clip(model: str, pretrained: str, folder: Path, *, activation: str | None = None) -> str:
    """Put an open_clip model into a backbone folder and return the backbone's digest.

    Args:
        model: A ViT configuration of open_clip; `ViT-B-32-quickgelu` is the product's default.
        pretrained: A tag of open_clip's hub (`openai`) or a weights file of that model.
        folder: Where it goes.
        activation: "gelu" or "quick_gelu", what the weights were trained with; needed for a weights file, because
            a file does not say, and under the wrong one CLIP answers wrongly without any error.

    Raises:
        UsageError: No such model or tag, a weights file without its activation, or an activation that is not the
            configuration's.
        BackboneInvalid: Not a ViT with class-token read-out.
    """
    config = open_clip.get_model_config(model)
    if config is None:
        raise UsageError(f"open_clip knows no model {model!r}", hint="e.g. ViT-B-32-quickgelu")
    is_file = Path(pretrained).is_file()
    if not is_file and not open_clip.is_pretrained_cfg(model, pretrained):
        tags = ", ".join(open_clip.list_pretrained_tags_by_model(model))
        raise UsageError(
            f"open_clip has no weights {pretrained!r} for {model}, and there is no such file",
            hint=f"its tags are {tags}" if tags else "it has no tags: give a weights file",
        )
    if pretrained == "openai":
        activation = "quick_gelu"
    if activation is None and is_file:
        raise UsageError(f"{pretrained} does not say its activation", hint="add --activation quick_gelu, or gelu")
    declared = "quick_gelu" if config.get("quick_gelu") else "gelu"
    if activation not in (None, declared):
        raise UsageError(
            f"the weights {pretrained} were trained with {activation}, and open_clip's {model} uses {declared}",
            hint=f"ask for {model}-quickgelu" if activation == "quick_gelu" else "ask for the model without -quickgelu",
        )
    with clear_hub_errors(f"open_clip could not load {model} with {pretrained!r}", from_hub=not is_file):
        clip = open_clip.create_model(model, pretrained=pretrained)
    return save_clip(clip, model, f"{model}-{Path(pretrained).stem}", folder)


def save_clip(clip: nn.Module, model: str, name: str, folder: Path) -> str:
    """Write an open_clip model with a ViT as a backbone folder with its text tower; returns the backbone's digest."""
    visual: Any = clip.visual
    if not isinstance(visual, open_clip.transformer.VisionTransformer):
        raise BackboneInvalid(f"{model} has no ViT as its vision tower but {type(visual).__name__}")
    block = visual.transformer.resblocks[0]
    preprocess = open_clip.get_model_preprocess_cfg(clip)
    spec = BackboneSpec(
        name=name,
        library="open_clip",
        architecture={
            "image_size": visual.image_size[0],
            "patch_size": visual.patch_size[0],
            "width": visual.conv1.out_channels,
            "layers": len(visual.transformer.resblocks),
            "heads": block.attn.num_heads,
            "mlp_ratio": block.mlp.c_fc.out_features / visual.conv1.out_channels,
            "output_dim": visual.output_dim,
        },
        activation="quick_gelu" if isinstance(block.mlp.gelu, QuickGELU) else "gelu",
        preprocess=Preprocess(
            size=visual.image_size[0],
            interpolation=preprocess["interpolation"],
            mean=tuple(preprocess["mean"]),
            std=tuple(preprocess["std"]),
        ),
        weights_sha256="0" * 64,
    )
    digest = save_backbone(folder, visual, spec)
    text = {key: value.contiguous() for key, value in clip.state_dict().items() if not key.startswith("visual.")}
    save_file(text, folder / TEXT_FILE, metadata={_MODEL_KEY: model})
    return digest


def require_text_tower(folder: Path) -> None:
    """Raises BackboneInvalid unless the backbone's folder holds the text tower of its CLIP."""
    if not (folder / TEXT_FILE).exists():
        raise BackboneInvalid(
            f"{folder} holds no {TEXT_FILE}, so it cannot name classes by text",
            hint="train with --head linear, or make the folder by `pgn backbone fetch`",
        )


def class_texts(folder: Path, classes: Sequence[str], template: str) -> tuple[Tensor, float]:
    """Class embeddings by the text tower in a backbone folder.

    Returns:
        (C, features) unit-length embeddings, and CLIP's logit scale (100 for OpenAI's weights).

    Raises:
        BackboneInvalid: The folder has no text tower.
        UsageError: The template has no {} or more than one.
    """
    require_text_tower(folder)
    path = folder / TEXT_FILE
    with safe_open(path, framework="pt") as file:
        model = (file.metadata() or {}).get(_MODEL_KEY, "")
    with torch.random.fork_rng():
        clip = open_clip.create_model(model)
    clip.load_state_dict(load_file(path), strict=False)
    embeddings = embed_class_texts(clip.eval(), open_clip.get_tokenizer(model), classes, template)
    return embeddings, float(clip.logit_scale.detach().exp())
