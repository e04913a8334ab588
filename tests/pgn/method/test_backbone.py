"""The backbone is frozen for real, equals its library without prompts, and takes prompts where the authors put them."""

from __future__ import annotations

import hashlib
from pathlib import Path

import open_clip
import pytest
import torch
from open_clip.model import _build_vision_tower
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from pgn.backbone_spec import BackboneSpec, Preprocess, read_spec, write_spec
from pgn.errors import BackboneInvalid
from pgn.method.backbone import FrozenBackbone, adapt, build_vit, load_backbone, save_backbone
from tests.toys import TOY_ARCHITECTURE, make_backbone

NO_NORM_BEFORE = {**TOY_ARCHITECTURE, "no_ln_pre": True}
TIMM_TINY = {"model": "vit_tiny_patch16_224", "depth": 2}
TIMM_AVERAGE = {**TIMM_TINY, "global_pool": "avg"}
TIMM_CLIP = {"model": "vit_base_patch32_clip_224", "embed_dim": 64, "depth": 2, "num_heads": 4, "num_classes": 0}
TIMM_REGISTERS = {"model": "vit_small_patch14_reg4_dinov2", "img_size": 56, "embed_dim": 64, "depth": 2, "num_heads": 2}

OPEN_CLIP_TOWERS = [TOY_ARCHITECTURE, NO_NORM_BEFORE]
TIMM_TOWERS = [TIMM_TINY, TIMM_AVERAGE, TIMM_CLIP, TIMM_REGISTERS]
TOWERS = [("open_clip", tower) for tower in OPEN_CLIP_TOWERS] + [("timm", tower) for tower in TIMM_TOWERS]


def spec(library: str, architecture: dict, activation: str = "gelu") -> BackboneSpec:
    return BackboneSpec(
        name="random",
        library=library,
        architecture=architecture,
        activation=activation,
        preprocess=Preprocess(size=32, interpolation="bicubic", mean=(0.5, 0.4, 0.3), std=(0.25, 0.2, 0.5)),
        weights_sha256="0" * 64,
    )


def random_backbone(library: str, architecture: dict, activation: str = "gelu") -> FrozenBackbone:
    """A seeded random tower, spread widely enough that a misplaced token changes its answer."""
    torch.manual_seed(0)
    described = spec(library, architecture, activation)
    vit = build_vit(described)
    for parameter in vit.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=0.1)
        else:
            parameter.data += 0.1 * torch.randn_like(parameter)  # norms and biases that are not neutral
    return adapt(vit, described)


def images_for(backbone: FrozenBackbone, count: int = 2) -> Tensor:
    side = backbone.vit.image_size if hasattr(backbone.vit, "image_size") else backbone.vit.patch_embed.img_size
    return torch.randn(count, 3, *side)


def relative(left: Tensor, right: Tensor) -> float:
    return ((left - right).abs().max() / right.abs().max()).item()


@pytest.fixture(
    scope="module",
    params=TOWERS,
    ids=["clip", "clip without ln_pre", "timm", "timm average", "timm clip", "timm registers"],
)
def backbone(request) -> FrozenBackbone:
    """Each kind of tower that is supported, small and random."""
    return random_backbone(*request.param)


class TestWithoutPrompts:
    def test_it_equals_its_librarys_own_forward(self, backbone):
        """The adapter adds a door for prompts and changes nothing else."""
        images = images_for(backbone)
        with torch.no_grad():
            ours, theirs = backbone(images), backbone.vit(images)
            if backbone.spec.library == "timm":
                ours = backbone.vit.head(ours)
        assert ours.shape == theirs.shape
        assert relative(ours, theirs) < 1e-6

    def test_a_whole_timm_vit_equals_timms(self):
        """Twelve blocks, as the library makes it."""
        torch.manual_seed(0)
        described = spec("timm", {"model": "vit_tiny_patch16_224"})
        backbone, images = adapt(build_vit(described), described), torch.randn(2, 3, 224, 224)
        assert (backbone.embed_dim, backbone.num_features, backbone.grid) == (192, 192, 14)
        with torch.no_grad():
            assert (backbone.vit.head(backbone(images)) - backbone.vit(images)).abs().max() < 1e-5

    def test_no_prompts_and_none_are_the_same(self, backbone):
        """K = 0 is the plain ViT."""
        images = images_for(backbone)
        assert torch.equal(backbone(images, torch.zeros(2, 0, backbone.embed_dim)), backbone(images))

    def test_clips_vit_b_32_equals_open_clips(self):
        """The production default at its real size, built from a spec and given the weights of the library's model."""
        config = open_clip.get_model_config("ViT-B-32-quickgelu")
        torch.manual_seed(0)
        clip = _build_vision_tower(config["embed_dim"], config["vision_cfg"], config["quick_gelu"]).eval()
        architecture = {
            "image_size": 224,
            "patch_size": 32,
            "width": 768,
            "layers": 12,
            "heads": 12,
            "mlp_ratio": 4.0,
            "output_dim": 512,
        }
        described = spec("open_clip", architecture, "quick_gelu")
        vit = build_vit(described)
        vit.load_state_dict(clip.state_dict())
        backbone, images = adapt(vit, described), torch.randn(2, 3, 224, 224)
        assert (backbone.embed_dim, backbone.num_features, backbone.grid) == (768, 512, 7)
        assert sum(parameter.numel() for parameter in backbone.parameters()) == 87_849_216
        with torch.no_grad():
            assert (backbone(images) - clip(images)).abs().max() < 1e-5

    @pytest.mark.parametrize(("library", "architecture"), [("open_clip", TOY_ARCHITECTURE), ("timm", TIMM_AVERAGE)])
    def test_the_declared_activation_is_used(self, library, architecture):
        """The same weights answer otherwise under the other activation, and nothing would tell."""
        gelu, quick = (random_backbone(library, architecture, name) for name in ("gelu", "quick_gelu"))
        images = images_for(gelu)
        assert all(torch.equal(a, b) for a, b in zip(gelu.parameters(), quick.parameters(), strict=True))
        assert relative(quick(images), gelu(images)) > 1e-3


class TestPrompts:
    def test_they_change_the_answer(self, backbone):
        """Of every tower, and differently for different prompts."""
        images, prompts = images_for(backbone), torch.randn(2, 2, 3, backbone.embed_dim)
        plain, first, second = (backbone(images, p) for p in (None, *prompts))
        assert relative(first, plain) > 1e-3
        assert relative(second, first) > 1e-3

    def test_their_number_does_not_change_the_shape(self, backbone):
        """Heads fit whatever K is."""
        images = images_for(backbone)
        for count in (1, 7):
            assert backbone(images, torch.randn(2, count, backbone.embed_dim)).shape == (2, backbone.num_features)

    def test_a_batch_equals_its_rows_taken_singly(self, backbone):
        """No image sees its neighbours or their prompts."""
        images, prompts = images_for(backbone, 3), torch.randn(3, 4, backbone.embed_dim)
        rows = torch.cat([backbone(image[None], prompt[None]) for image, prompt in zip(images, prompts, strict=True)])
        assert relative(backbone(images, prompts), rows) < 1e-5

    def test_their_order_is_free(self, backbone):
        """Without positions, attention cannot tell which prompt came first."""
        images, prompts = images_for(backbone), torch.randn(2, 4, backbone.embed_dim)
        assert relative(backbone(images, prompts.flip(1)), backbone(images, prompts)) < 1e-5

    def test_in_clip_they_follow_the_patches_and_pass_ln_pre(self):
        """Written out: positions for class token and patches alone, then the prompts, then the norm."""
        backbone = random_backbone("open_clip", TOY_ARCHITECTURE)
        vit, images, prompts = backbone.vit, images_for(backbone), torch.randn(2, 3, 32)
        patches = nn.functional.conv2d(images, vit.conv1.weight, stride=8).flatten(2).transpose(1, 2)
        own = torch.cat([vit.class_embedding.expand(2, 1, 32), patches], 1) + vit.positional_embedding
        tokens = vit.transformer(vit.ln_pre(torch.cat([own, prompts], 1)))
        assert relative(backbone(images, prompts), vit.ln_post(tokens[:, 0]) @ vit.proj) < 1e-6

        after_norm = vit.transformer(torch.cat([vit.ln_pre(own), prompts], 1))
        assert relative(backbone(images, prompts), vit.ln_post(after_norm[:, 0]) @ vit.proj) > 1e-3

    def test_in_timms_vit_they_follow_the_patches(self):
        """Written out: positions for class token and patches alone, no norm before the first block."""
        backbone = random_backbone("timm", TIMM_TINY)
        vit, images, prompts = backbone.vit, images_for(backbone), torch.randn(2, 3, 192)
        own = torch.cat([vit.cls_token.expand(2, 1, 192), vit.patch_embed(images)], 1) + vit.pos_embed
        tokens = vit.norm(vit.blocks(torch.cat([own, prompts], 1)))
        assert relative(backbone(images, prompts), tokens[:, 0]) < 1e-6

    def test_an_average_is_taken_over_patches_alone(self):
        """A tower that reads out the mean of its patches must not average the prompts in."""
        backbone = random_backbone("timm", TIMM_AVERAGE)
        vit, images, prompts = backbone.vit, images_for(backbone), torch.randn(2, 3, 192)
        tokens = vit.norm(vit.blocks(torch.cat([backbone.embed(images), prompts], 1)))
        first = vit.num_prefix_tokens
        assert relative(backbone(images, prompts), vit.fc_norm(tokens[:, first : first + 196].mean(1))) < 1e-6


class TestFrozen:
    def test_train_mode_is_refused_silently(self, backbone):
        """A trainer calls `.train()` on everything it holds; dropout in the tower would change every answer."""
        whole = nn.ModuleList([backbone, nn.Linear(2, 2)])
        whole.train()
        assert whole[1].training
        assert not any(module.training for module in backbone.modules())

    def test_learning_prompts_leaves_every_weight_alone(self, backbone):
        """An optimiser that was handed the whole tower, with weight decay, still cannot move it."""
        before = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
        prompts = nn.Parameter(torch.randn(2, 3, backbone.embed_dim))
        optimiser = torch.optim.SGD([prompts, *backbone.parameters()], lr=0.1, momentum=0.9, weight_decay=0.1)
        images, start = images_for(backbone), prompts.detach().clone()
        for _ in range(3):
            optimiser.zero_grad()
            backbone.train()(images, prompts).square().mean().backward()
            optimiser.step()
        assert not torch.equal(prompts, start)
        assert all(torch.equal(tensor, before[name]) for name, tensor in backbone.state_dict().items())
        assert all(p.grad is None and not p.requires_grad for p in backbone.parameters())


class TestRowsBelow:
    def test_rows_below_an_image_are_prompts(self, backbone):
        """A taller image is what its square is with the rows' patch tokens as prompts: prompt inversion rests on it."""
        images = images_for(backbone)
        rows = torch.randn(2, 3, 2 * backbone.patch_size, images.shape[3])
        with torch.no_grad():
            tall = backbone(torch.cat([images, rows], dim=2))
            assert relative(tall, backbone(images, backbone.project(rows))) < 1e-6
            assert relative(tall, backbone(images)) > 1e-3

    @pytest.mark.parametrize("extra", [(1, 0), (0, 8), (-8, 0)])
    def test_other_sizes_are_refused(self, extra):
        """Half a patch, a wider or a lower image have no tokens of their own."""
        backbone = random_backbone("open_clip", TOY_ARCHITECTURE)
        with pytest.raises(ValueError, match="do not fit a ViT of 32 px"):
            backbone(torch.zeros(1, 3, 32 + extra[0], 32 + extra[1]))


class TestNormalise:
    def test_pixels_become_the_backbones_input(self):
        """(x / 255 - mean) / std for each channel, channels first."""
        backbone = random_backbone("open_clip", TOY_ARCHITECTURE)
        pixels = torch.zeros(1, 2, 2, 3, dtype=torch.uint8)
        pixels[0, 0, 1] = torch.tensor([255, 51, 0])
        images = backbone.normalise(pixels)
        assert (images.shape, images.dtype) == ((1, 3, 2, 2), torch.float32)
        expected = torch.tensor([(1 - 0.5) / 0.25, (0.2 - 0.4) / 0.2, (0 - 0.3) / 0.5])
        assert torch.allclose(images[0, :, 0, 1], expected, atol=1e-6)

    def test_mean_and_std_are_no_weights(self):
        """They come from the spec; a weights file that held them would no longer fit the library."""
        backbone = random_backbone("open_clip", TOY_ARCHITECTURE)
        assert all(name.startswith("vit.") for name in backbone.state_dict())


class TestFolder:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        """The toy backbone as a folder."""
        make_backbone(tmp_path / "toy")
        return tmp_path / "toy"

    @staticmethod
    def put_weights(folder: Path, data: bytes) -> None:
        """Other weights, with a spec that vouches for them."""
        (folder / "model.safetensors").write_bytes(data)
        described, _ = read_spec(folder)
        write_spec(folder, described.model_copy(update={"weights_sha256": hashlib.sha256(data).hexdigest()}))

    def test_loading_gives_what_was_saved(self, tmp_path):
        """Weights, spec and digest survive the folder."""
        torch.manual_seed(0)
        vit = build_vit(spec("open_clip", TOY_ARCHITECTURE))
        digest = save_backbone(tmp_path / "toy", vit, spec("open_clip", TOY_ARCHITECTURE))
        backbone = load_backbone(tmp_path / "toy")
        assert backbone.digest == digest
        assert all(torch.equal(tensor, vit.state_dict()[name]) for name, tensor in backbone.vit.state_dict().items())

    def test_half_precision_is_read_as_float32(self, tmp_path):
        """Stored small, computed exactly."""
        vit = build_vit(spec("open_clip", TOY_ARCHITECTURE))
        save_backbone(tmp_path / "toy", vit, spec("open_clip", TOY_ARCHITECTURE), dtype=torch.float16)
        assert {parameter.dtype for parameter in load_backbone(tmp_path / "toy").parameters()} == {torch.float32}

    def test_a_damaged_weights_file_is_refused(self, folder):
        """One byte is enough."""
        path = folder / "model.safetensors"
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(data)
        with pytest.raises(BackboneInvalid, match="its spec says"):
            load_backbone(folder)

    @pytest.mark.parametrize("change", ["missing", "extra", "shape"])
    def test_weights_that_do_not_fit_are_refused(self, folder, change):
        """A spec may vouch for the wrong file."""
        weights = load_file(folder / "model.safetensors")
        if change == "missing":
            del weights["proj"]
        else:
            weights["proj" if change == "shape" else "spare"] = torch.zeros(3)
        save_file(weights, folder / "other.safetensors")
        self.put_weights(folder, (folder / "other.safetensors").read_bytes())
        with pytest.raises(BackboneInvalid, match="the weights do not fit the architecture"):
            load_backbone(folder)

    @pytest.mark.parametrize("data", [b"", b"version https://git-lfs.github.com/spec/v1\n"])
    def test_a_file_that_holds_no_weights_is_refused(self, folder, data):
        """A pointer to a large file is not the file."""
        self.put_weights(folder, data)
        with pytest.raises(BackboneInvalid):
            load_backbone(folder)


class TestUnsupported:
    @pytest.mark.parametrize(
        ("library", "architecture"),
        [
            ("open_clip", {"depth": 12}),
            ("open_clip", {**TOY_ARCHITECTURE, "act_layer": "gelu"}),
            ("timm", {}),
            ("timm", {"model": "vit_that_never_was"}),
            ("timm", {**TIMM_TINY, "colour": "blue"}),
        ],
    )
    def test_an_architecture_of_no_library_is_refused(self, library, architecture):
        """The message passes on what the library had to say."""
        with pytest.raises(BackboneInvalid, match=f"{library} cannot build its architecture"):
            build_vit(spec(library, architecture))

    def test_a_clip_that_averages_is_refused(self):
        """Its answer would average the prompts in."""
        with pytest.raises(BackboneInvalid, match="does not read its answer from the class token"):
            random_backbone("open_clip", {**TOY_ARCHITECTURE, "pool_type": "avg"})


def test_a_timm_model_that_is_no_vit_is_refused() -> None:
    """Prompts are tokens; a model that keeps its image in two dimensions has no place for them."""
    with pytest.raises(BackboneInvalid, match="PoolingVisionTransformer"):
        build_vit(spec("timm", {"model": "pit_ti_224"}))
