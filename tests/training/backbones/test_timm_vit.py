"""A ViT of timm becomes a backbone folder that answers as timm's own model does."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from pgn.backbone_spec import read_spec
from pgn.errors import UsageError
from pgn.method.backbone import load_backbone
from training.backbones.fetch import fetch

MODEL = "vit_tiny_patch16_224"


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of random weights with timm's thousand-class head, as hubs hand them out."""
    torch.manual_seed(0)
    file = tmp_path_factory.mktemp("timm") / "model.safetensors"
    save_file(timm.create_model(MODEL).state_dict(), file)
    return file


def test_the_folder_answers_as_timm_does_at_that_size(weights: Path, tmp_path: Path) -> None:
    """At half the side there is a quarter of the tokens, and the positions are resized as timm resizes them."""
    fetch(MODEL, str(weights), tmp_path / "vit", image_size=112)
    backbone = load_backbone(tmp_path / "vit")
    theirs = timm.create_model(
        MODEL, pretrained=True, pretrained_cfg_overlay={"file": str(weights)}, num_classes=0, img_size=112
    ).eval()
    images = torch.randn(2, 3, 112, 112)
    with torch.no_grad():
        torch.testing.assert_close(backbone(images), theirs(images), atol=1e-5, rtol=0)
    assert (backbone.grid, backbone.spec.preprocess.size, backbone.spec.preprocess.mean) == (7, 112, (0.5, 0.5, 0.5))
    assert read_spec(tmp_path / "vit")[0].name == "vit_tiny_patch16_224-112px"


def test_clip_in_timm_keeps_its_activation(tmp_path: Path) -> None:
    """The name decides; under the wrong activation it would answer wrongly and say nothing."""
    model, file = "vit_base_patch32_clip_quickgelu_224", tmp_path / "clip.safetensors"
    save_file(timm.create_model(model).state_dict(), file)
    fetch(model, str(file), tmp_path / "clip")
    assert load_backbone(tmp_path / "clip").spec.activation == "quick_gelu"


@pytest.mark.parametrize(
    ("model", "options", "reason"),
    [
        ("resnet18", {}, "timm knows no plain ViT 'resnet18'"),
        (
            "vit_tiny_patch16_224.nope",
            {},
            r"timm has no weights 'nope' for vit_tiny_patch16_224 \(its tags are augreg_in21k,",
        ),
        (MODEL, {"image_size": 100}, "100 px are no whole number of patches of 16 px"),
        (MODEL, {"activation": "gelu"}, "leave --activation away"),
        ("vit_small_patch16_224", {}, "size mismatch"),
        ("ViT-B-32-quickgelu", {"image_size": 128}, "open_clip's ViT-B-32-quickgelu has one size"),
    ],
)
def test_what_does_not_fit_is_one_line(weights: Path, tmp_path: Path, model: str, options: dict, reason: str) -> None:
    """And no folder is left that looks like a backbone."""
    with pytest.raises(UsageError, match=reason) as raised:
        fetch(model, str(weights), tmp_path / "vit", **options)
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "vit").exists()


def test_a_missing_weights_file_is_no_question_to_the_hub(tmp_path: Path) -> None:
    """A misspelt path is told at once."""
    with pytest.raises(UsageError, match=r"there is no weights file .*lost\.safetensors"):
        fetch(MODEL, str(tmp_path / "lost.safetensors"), tmp_path / "vit")
