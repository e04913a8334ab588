"""The ViT's first layer alone gives the tokens that the whole ViT would, and can be run backwards."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pgn.backbone_spec import BackboneSpec
from pgn.errors import BackboneInvalid
from pgn.method.backbone import FrozenBackbone, build_vit, load_backbone, save_backbone
from pgn.method.pixels import Normalise
from pgn.method.projection import PatchInverse, PatchProjection, load_projection, projection_of
from tests.toys import TOY_ARCHITECTURE, TOY_PREPROCESS

TIMM = {"model": "vit_tiny_patch16_224", "img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 1, "num_heads": 2}


def save(folder: Path, library: str, architecture: dict[str, object]) -> Path:
    spec = BackboneSpec(
        name="random",
        library=library,
        architecture=architecture,
        activation="gelu",
        preprocess=TOY_PREPROCESS.model_copy(update={"mean": (0.5, 0.4, 0.3), "std": (0.25, 0.2, 0.5)}),
        weights_sha256="0" * 64,
    )
    torch.manual_seed(0)
    vit = build_vit(spec)
    for name, parameter in vit.named_parameters():
        if name.endswith("proj.bias"):
            torch.nn.init.normal_(parameter)  # timm starts it at 0, where it would not be missed
    save_backbone(folder, vit, spec)
    return folder


@pytest.fixture(params=[("open_clip", TOY_ARCHITECTURE), ("timm", TIMM)], ids=["clip", "timm"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """The folder of a small tower of each library; timm's has a bias."""
    return save(tmp_path / "backbone", *request.param)


def by_the_whole_vit(backbone: FrozenBackbone, patches: torch.Tensor) -> torch.Tensor:
    """(B, K, 3, P, P) patches side by side as an image, through the backbone's own door."""
    row = patches.permute(0, 2, 3, 1, 4).flatten(3)
    return backbone.project((row - backbone.normalise.mean) / backbone.normalise.std)


@pytest.mark.parametrize("make", [load_projection, lambda folder: projection_of(load_backbone(folder))])
def test_a_patch_becomes_the_token_that_the_vit_makes_of_it(folder, make):
    """Normalised, projected, without position; from the folder alone or from a loaded tower."""
    projection, patches = make(folder), torch.rand(2, 4, 3, 8, 8)
    assert (projection.embed_dim, projection.patch_size) == (32, 8)
    assert torch.allclose(projection(patches), by_the_whole_vit(load_backbone(folder), patches), atol=1e-5)


def test_timms_bias_is_part_of_it(tmp_path):
    """CLIP has none, which makes it easy to forget."""
    projection = load_projection(save(tmp_path / "timm", "timm", TIMM))
    assert projection.bias is not None
    assert projection.bias.any()
    assert load_projection(save(tmp_path / "clip", "open_clip", TOY_ARCHITECTURE)).bias is None


def test_a_loaded_towers_own_memory_is_used(folder):
    """No second copy of the layer, and nothing that learns."""
    backbone = load_backbone(folder)
    projection = projection_of(backbone)
    assert projection.weight.data_ptr() in {parameter.data_ptr() for parameter in backbone.parameters()}
    assert not [*projection.parameters()]
    assert not projection.state_dict()


def test_half_precision_is_read_as_float32(folder):
    """As the whole tower is."""
    backbone = load_backbone(folder)
    save_backbone(folder, backbone.vit, backbone.spec, dtype=torch.float16)
    assert load_projection(folder).weight.dtype == torch.float32


def test_a_damaged_weights_file_is_refused(folder):
    """The digest is checked before a byte is believed."""
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\xff")
    with pytest.raises(BackboneInvalid, match="its spec says"):
        load_projection(folder)


def test_a_norm_behind_the_projection_is_refused(tmp_path):
    """What follows a norm is no linear function of the pixels; prompts that are pixels would be other prompts."""
    assert isinstance(load_projection(save(tmp_path / "plain", "timm", TIMM)), PatchProjection)
    normed = save(tmp_path / "normed", "timm", {**TIMM, "embed_norm_layer": "layernorm"})
    with pytest.raises(BackboneInvalid, match="norm behind its patch projection"):
        load_projection(normed)


class TestPatchInverse:
    def test_a_patch_with_fewer_values_than_a_token_reaches_only_part_of_it(self):
        """ViT-L/14's shape, 588 values for a width of 1024: least squares, and the missing share is told."""
        torch.manual_seed(0)
        projection = PatchProjection(torch.randn(1024, 3, 14, 14) / 24, None, Normalise(TOY_PREPROCESS))
        inverse, prompts = PatchInverse(projection), torch.randn(2, 7, 1024)
        assert (inverse.rank, inverse.width) == (588, 1024)
        assert inverse.residual(prompts).mean().item() == pytest.approx((1 - 588 / 1024) ** 0.5, abs=0.02)
        reached = projection(inverse.patches(prompts).float())
        error = (reached - prompts).norm(dim=-1) / prompts.norm(dim=-1)
        assert torch.allclose(error, inverse.residual(prompts).float(), atol=1e-4)

    def test_a_token_that_can_be_reached_is_reached_also_there(self):
        """Least squares finds the exact patch where there is one."""
        torch.manual_seed(0)
        projection = PatchProjection(torch.randn(100, 3, 4, 4), torch.randn(100), Normalise(TOY_PREPROCESS))
        patches = torch.rand(2, 3, 3, 4, 4)
        inverse = PatchInverse(projection)
        assert torch.allclose(inverse.patches(projection(patches)).float(), patches, atol=1e-5)
        assert inverse.residual(projection(patches)).max() < 1e-5

    def test_a_dead_direction_is_no_direction(self):
        """Weights that only rounding keeps from 0 would be divided by; they count as missing rank."""
        torch.manual_seed(0)
        weight = torch.randn(10, 3, 4, 4)
        weight[9] = weight[8] * (1 + 1e-9)
        inverse = PatchInverse(PatchProjection(weight, None, Normalise(TOY_PREPROCESS)))
        assert inverse.rank == 9
        assert inverse.patches(torch.randn(1, 1, 10)).abs().max() < 10
