"""The kinds of backbone that every method has to work on, tiny and random, each as a folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import open_clip
import pytest
import torch

from pgn.backbone_spec import BackboneSpec, Preprocess
from pgn.method.backbone import build_vit, save_backbone
from training.backbones.clip import save_clip
from training.backbones.quantise import quantise_folder
from training.config import TrainConfig
from training.setting import Setting, prepare

TINY = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2}
SUPERVISED = {"model": "vit_tiny_patch16_224", **TINY, "num_classes": 5}
AVERAGE = {**SUPERVISED, "global_pool": "avg"}  # reads its answer from all patches
DINO = {"model": "vit_small_patch14_reg4_dinov2", **TINY}  # four register tokens, no classifier
CLIP_MODEL = "toy-clip"


def _timm_folder(folder: Path, architecture: dict) -> Path:
    spec = BackboneSpec(
        name=architecture["model"],
        library="timm",
        architecture=architecture,
        activation="gelu",
        preprocess=Preprocess(size=32, interpolation="bicubic", mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25)),
        weights_sha256="0" * 64,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        vit = build_vit(spec)
        for parameter in vit.parameters():  # spread widely, so that a misplaced token changes the answer
            parameter.data += 0.1 * torch.randn_like(parameter)
        save_backbone(folder, vit, spec)
    return folder


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CLIP of open_clip's own classes with both towers: its folder names classes by text."""
    config = {
        "embed_dim": 16,
        "quick_gelu": True,
        "vision_cfg": {"image_size": 32, "patch_size": 8, "width": 32, "head_width": 16, "layers": 2},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
    }
    folder = tmp_path_factory.mktemp("clip")
    (folder / f"{CLIP_MODEL}.json").write_text(json.dumps(config))
    open_clip.add_model_config(folder / f"{CLIP_MODEL}.json")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        save_clip(open_clip.create_model(CLIP_MODEL), CLIP_MODEL, "toy-clip", folder / "clip")
    return folder / "clip"


@pytest.fixture(scope="session")
def backbone_folders(
    tmp_path_factory: pytest.TempPathFactory, backbone_folder: Path, clip_folder: Path
) -> dict[str, Path]:
    """By kind: CLIP's tower alone and in int8, CLIP with text, two supervised ViTs, a DINO-style one."""
    folder = tmp_path_factory.mktemp("kinds")
    quantise_folder(backbone_folder, folder / "int8")
    return {
        "tower": backbone_folder,
        "clip": clip_folder,
        "supervised": _timm_folder(folder / "supervised", SUPERVISED),
        "average": _timm_folder(folder / "average", AVERAGE),
        "dino": _timm_folder(folder / "dino", DINO),
        "int8": folder / "int8",
    }


@pytest.fixture
def make_setting(make_config: Callable[..., TrainConfig], backbone_folders: dict[str, Path]) -> Callable[..., Setting]:
    """What a run on 50 digits reads; `kind` names the backbone, other keywords change the config."""

    def make(kind: str = "tower", **changes: object) -> Setting:
        return prepare(make_config(backbone=backbone_folders[kind], **changes))

    return make
