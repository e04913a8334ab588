"""A frozen ViT with int8 weights answers nearly the same, learns nothing, and lets prompts learn."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pgn.backbone_spec import BackboneSpec, Preprocess
from pgn.method.backbone import FrozenBackbone, adapt, build_vit
from pgn.method.quantise import Int8Rows, quantise_linears, stored_name

CLIP = {"image_size": 32, "patch_size": 8, "width": 64, "layers": 3, "heads": 4, "mlp_ratio": 4.0, "output_dim": 32}
TIMM = {"model": "vit_tiny_patch16_224", "img_size": 32, "patch_size": 8, "embed_dim": 64, "depth": 3, "num_heads": 4}
IMAGES = torch.randn(6, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def _random(library: str, architecture: dict) -> FrozenBackbone:
    torch.manual_seed(0)
    spec = BackboneSpec(
        name="random",
        library=library,
        architecture=architecture,
        activation="gelu",
        preprocess=Preprocess(size=32, interpolation="bicubic", mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25)),
        weights_sha256="0" * 64,
    )
    vit = build_vit(spec)
    for parameter in vit.parameters():
        if parameter.ndim > 1:  # wide enough that the blocks decide the answer
            nn.init.normal_(parameter, std=0.1)
    return adapt(vit, spec)


@pytest.fixture(params=[("open_clip", CLIP), ("timm", TIMM)], ids=["clip", "timm"])
def both(request: pytest.FixtureRequest) -> tuple[FrozenBackbone, FrozenBackbone]:
    """A random tower, and its twin in int8."""
    quantised = _random(*request.param)
    quantise_linears(quantised.blocks)
    return _random(*request.param), quantised


def test_features_hardly_change(both: tuple[FrozenBackbone, FrozenBackbone]) -> None:
    """Cosine above 0.99 for every image, with and without prompts; and they do change."""
    exact, quantised = both
    for prompts in (None, torch.randn(6, 4, 64, generator=torch.Generator().manual_seed(1))):
        wanted, found = exact(IMAGES, prompts), quantised(IMAGES, prompts)
        assert (torch.cosine_similarity(wanted, found) > 0.99).all()
        assert not torch.equal(wanted, found)


def test_the_gradient_reaches_the_prompts_and_nothing_else(both: tuple[FrozenBackbone, FrozenBackbone]) -> None:
    """It is nearly the float tower's; the int8 weights take none."""
    gradients = []
    for backbone in both:
        prompts = torch.randn(6, 4, 64, generator=torch.Generator().manual_seed(1)).requires_grad_()
        backbone(IMAGES, prompts)[:, 0].sum().backward()
        assert prompts.grad is not None
        gradients.append(prompts.grad.flatten())
    assert torch.cosine_similarity(gradients[0], gradients[1], dim=0) > 0.99
    assert all(not p.requires_grad and p.grad is None for p in both[1].parameters())


def test_every_matrix_of_the_blocks_is_int8_and_nothing_else_is(both: tuple[FrozenBackbone, FrozenBackbone]) -> None:
    """Attention's own matrix is not forgotten; patch projection, positions and norms stay float."""
    exact, quantised = both
    matrices = {name for name, p in exact.blocks.named_parameters() if p.ndim == 2}
    int8 = {stored_name(name) for name, p in quantised.named_parameters() if p.dtype == torch.int8}
    assert {name.split("blocks.", 1)[1] for name in int8} == matrices
    assert len(matrices) == 3 * 4


def test_the_blocks_need_a_quarter_of_the_memory(both: tuple[FrozenBackbone, FrozenBackbone]) -> None:
    """A byte for each weight instead of four, and a few bytes for scales, biases and norms."""
    exact, quantised = (sum(p.numel() * p.element_size() for p in tower.blocks.parameters()) for tower in both)
    assert 0.25 < quantised / exact < 0.3


def test_a_row_is_its_scale_times_values_to_half_a_step() -> None:
    """The largest value is met exactly, and a row of zeros stays zero."""
    rows = Int8Rows()
    weight = torch.randn(5, 40, generator=torch.Generator().manual_seed(0))
    weight[2] = 0
    values, scale = rows.right_inverse(weight)
    assert values.dtype == torch.int8
    assert values.abs().amax(1).tolist() == [127, 127, 0, 127, 127]
    assert ((rows(values, scale) - weight).abs() <= scale[:, None] / 2 + 1e-7).all()
    assert (rows(values, scale)[2] == 0).all()


@pytest.mark.parametrize(
    ("name", "stored"),
    [
        ("attn.parametrizations.in_proj_weight.original0", "attn.in_proj_weight"),
        ("attn.parametrizations.in_proj_weight.original1", "attn.in_proj_weight_scale"),
        ("ln_pre.weight", "ln_pre.weight"),
    ],
)
def test_a_folder_keeps_the_librarys_names(name: str, stored: str) -> None:
    """docs/backbone.md describes them; how torch calls a parametrised weight is nobody's contract."""
    assert stored_name(name) == stored
