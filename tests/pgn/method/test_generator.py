"""The prompt generator has the paper's size, and writes the same prompts wherever it runs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from pgn.bundle import Bundle, GeneratorSpec, read_bundle
from pgn.errors import BundleInvalid
from pgn.method.generator import DirectGenerator, FixedPrompts, PromptGenerator, build_generator, load_generator
from pgn.method.pixels import Normalise
from pgn.method.projection import PatchProjection
from tests.toys import ANY_PROJECTION, TOY_PREPROCESS, make_bundle

SMALL = GeneratorSpec(encoder="resnet10", encoder_width=4, num_prompts=3, library_size=5, embed_dim=8, input_size=32)


def spec(num_prompts: int = 16, library_size: int = 256, embed_dim: int = 768, **options: object) -> GeneratorSpec:
    """The paper's configuration with other sizes or parts."""
    fields = {
        "encoder": "resnet10",
        "num_prompts": num_prompts,
        "library_size": library_size,
        "embed_dim": embed_dim,
        "input_size": 224,
    }
    return GeneratorSpec(**{**fields, **options})


def projection(embed_dim: int, patch_size: int) -> PatchProjection:
    """A random first layer without bias, as CLIP has it."""
    weight = torch.randn(embed_dim, 3, patch_size, patch_size) / 7
    return PatchProjection(weight, None, Normalise(TOY_PREPROCESS))


def trainable(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)


@pytest.fixture
def generator() -> PromptGenerator:
    """A small generator in eval mode, with logits large enough that mixtures differ."""
    torch.manual_seed(0)
    generator = PromptGenerator(SMALL).eval()
    generator.to_logits.weight.data *= 20
    return generator


class TestSize:
    @pytest.mark.parametrize(
        ("num_prompts", "total"),
        [
            (1, 536_944),
            (4, 636_016),
            (7, 735_088),
            (8, 768_112),
            (14, 966_256),
            (16, 1_032_304),
            (21, 1_197_424),
            (32, 1_560_688),
            (64, 2_617_456),
        ],
    )
    def test_trainable_values_by_number_of_prompts(self, num_prompts, total):
        """Table 1.2 of the method notes, N 256, D 768."""
        assert trainable(PromptGenerator(spec(num_prompts=num_prompts))) == total

    @pytest.mark.parametrize(
        ("library_size", "total"),
        [
            (8, 329_968),
            (16, 352_624),
            (64, 488_560),
            (128, 669_808),
            (256, 1_032_304),
            (512, 1_757_296),
            (1024, 3_207_280),
        ],
    )
    def test_trainable_values_by_size_of_the_library(self, library_size, total):
        """Table 1.2 of the method notes, K 16, D 768."""
        assert trainable(PromptGenerator(spec(library_size=library_size))) == total

    @pytest.mark.parametrize(
        ("library_size", "embed_dim", "total"), [(128, 384, 620_656), (256, 1024, 1_097_840), (128, 768, 669_808)]
    )
    def test_trainable_values_of_other_backbones(self, library_size, embed_dim, total):
        """DINO ViT-S/16, CLIP ViT-L/14 and torchvision's ViT-B/32."""
        assert trainable(PromptGenerator(spec(library_size=library_size, embed_dim=embed_dim))) == total

    def test_trainable_values_by_part(self):
        """Half of the paper's network is the last linear layer."""
        generator = PromptGenerator(spec())
        parts = (generator.encoder, generator.to_logits, generator.library)
        assert [trainable(part) for part in parts] == [307_312, 528_384, 196_608]

    def test_the_state_has_63_tensors(self):
        """As many as the authors' checkpoints hold, 1,033,305 values with buffers."""
        state = PromptGenerator(spec()).state_dict()
        assert (len(state), sum(tensor.numel() for tensor in state.values())) == (63, 1_033_305)

    def test_fixed_prompts_are_k_free_vectors(self):
        """16 prompts of width 768 and nothing else."""
        fixed = GeneratorSpec(encoder="none", num_prompts=16, library_size=0, embed_dim=768, input_size=224)
        assert trainable(build_generator(fixed)) == 12_288

    def test_trainable_values_with_resnet18(self):
        """Section 1.4 of the method notes: thirteen times the paper's choice, for no significant gain."""
        assert trainable(build_generator(spec(encoder="resnet18"))) == 13_474_368

    def test_trainable_values_without_library(self):
        """Section 1.4: 307,312 of the encoder and 1,585,152 of the layer that writes all values itself."""
        assert trainable(build_generator(spec(library_size=0, library="none"))) == 307_312 + 1_585_152

    @pytest.mark.parametrize(("patch_size", "library"), [(32, 786_432), (16, 196_608), (14, 150_528)])
    def test_trainable_values_with_an_rgb_library(self, patch_size, library):
        """Section 4.3: the library has N x 3 x P x P values, whatever the width of the tokens."""
        rgb = spec(library="rgb", patch_size=patch_size)
        assert trainable(build_generator(rgb, projection(768, patch_size))) == 307_312 + 528_384 + library

    def test_trainable_values_of_the_multilayer_perceptrons(self):
        """Weights and biases of each layer: crop to hidden, hidden to logits; features to hidden, hidden to logits."""
        pixels = spec(encoder="mlp", crop=10, hidden=50)
        assert trainable(build_generator(pixels)) == 301 * 50 + 51 * 4096 + 196_608
        deeper = spec(projection="mlp", hidden=50)
        assert trainable(build_generator(deeper)) == 307_312 + 129 * 50 + 51 * 4096 + 196_608


class TestPromptGenerator:
    def test_mixture_rows_sum_to_one(self, generator):
        """For each image and prompt, a share of every token."""
        mixture = generator.mixture(torch.randn(2, 3, 32, 32))
        assert mixture.shape == (2, 3, 5)
        assert (mixture >= 0).all()
        assert torch.allclose(mixture.sum(-1), torch.ones(2, 3), atol=1e-6)

    def test_column_k_n_plus_n_is_token_n_of_prompt_k(self, generator):
        """The order of the authors' checkpoints; the other way round would load as well and mean something else."""
        images = torch.randn(1, 3, 32, 32)
        logits = generator.to_logits(generator.encoder(images))[0]
        by_hand = torch.stack([logits[5 * k : 5 * k + 5].softmax(0) for k in range(3)])
        assert torch.allclose(generator.mixture(images)[0], by_hand, atol=1e-6)

    def test_prompts_are_mixed_tokens(self, generator):
        """Forward is mixture, then library."""
        images = torch.randn(2, 3, 32, 32)
        by_hand = torch.einsum("bkn,nd->bkd", generator.mixture(images), generator.library.tokens)
        assert torch.allclose(generator(images), by_hand, atol=1e-6)

    def test_prompts_depend_on_the_image(self, generator):
        """Otherwise it would be a costly way to write fixed prompts."""
        prompts = generator(torch.randn(2, 3, 32, 32))
        assert (prompts[0] - prompts[1]).abs().max() > 1e-4

    def test_a_batch_equals_its_rows_taken_singly(self, generator):
        """In eval mode no image sees its neighbours, so serving may batch as it likes."""
        images = torch.randn(5, 3, 32, 32)
        rows = torch.cat([generator(image[None]) for image in images])
        assert torch.allclose(generator(images), rows, atol=1e-6)

    @pytest.mark.parametrize("antialias", [False, True])
    def test_a_larger_image_is_resized_to_what_the_encoder_sees(self, generator, antialias):
        """The backbone's input serves the generator too; the manifest says how it is scaled."""
        generator.spec = generator.spec.model_copy(update={"antialias": antialias})
        images = torch.randn(1, 3, 80, 80)
        small = F.interpolate(images, (32, 32), mode="bilinear", antialias=antialias)
        other = F.interpolate(images, (32, 32), mode="bilinear", antialias=not antialias)
        assert torch.equal(generator(images), generator(small))
        assert not torch.equal(generator(images), generator(other))

    def test_the_same_seed_builds_the_same_generator(self):
        """Weights are drawn from torch's global random state and from nothing else."""
        states = []
        for _ in range(2):
            torch.manual_seed(3)
            states.append(build_generator(SMALL).state_dict())
        assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])

    def test_all_of_it_learns(self, generator):
        """A gradient reaches library, linear layer and the first convolution."""
        generator.train()(torch.randn(4, 3, 32, 32)).square().sum().backward()
        assert all(parameter.grad is not None for parameter in generator.parameters())
        assert generator.encoder.stem[0].weight.grad.abs().max() > 0


VARIANTS = {
    "paper": {},
    "mlp projection": {"projection": "mlp", "hidden": 7},
    "pixels": {"encoder": "mlp", "crop": 12, "hidden": 7},
    "resnet18": {"encoder": "resnet18"},
    "direct": {"library": "none", "library_size": 0},
    "direct mlp": {"library": "none", "library_size": 0, "projection": "mlp", "hidden": 7},
    "rgb": {"library": "rgb", "patch_size": 4},
}


@pytest.fixture(params=VARIANTS.values(), ids=VARIANTS.keys())
def variant(request: pytest.FixtureRequest) -> PromptGenerator | DirectGenerator:
    """Each way to build a generator that looks at its image, small."""
    torch.manual_seed(0)
    options = {"encoder_width": 4, "input_size": 32, "library_size": 5, **request.param}
    return build_generator(spec(num_prompts=3, embed_dim=8, **options), projection(8, 4))


class TestVariants:
    def test_each_writes_k_prompts_of_the_backbones_width(self, variant):
        """Whatever is inside, the ViT meets the same (B, K, D), and different images get different prompts."""
        variant.eval().last_layer.weight.data *= 20
        prompts = variant(torch.randn(2, 3, 40, 40))
        assert prompts.shape == (2, 3, 8)
        assert (prompts[0] - prompts[1]).abs().max() > 1e-5

    def test_all_of_each_learns(self, variant):
        """A gradient reaches every parameter."""
        variant.train()(torch.randn(4, 3, 32, 32)).square().sum().backward()
        assert all(parameter.grad is not None and parameter.grad.any() for parameter in variant.parameters())

    def test_the_last_layers_bias_is_the_part_that_no_image_changes(self, variant):
        """With its weights at 0 the generator is a writer of fixed prompts, which is where training starts."""
        torch.nn.init.zeros_(variant.last_layer.weight)
        prompts = variant.eval()(torch.randn(2, 3, 32, 32))
        assert torch.equal(prompts[0], prompts[1])
        before = prompts[0].clone()
        variant.last_layer.bias.data[0] += 5
        assert not torch.equal(variant(torch.randn(1, 3, 32, 32))[0], before)


def test_an_mlp_projection_has_a_hidden_layer_that_bends():
    """Two linear layers in a row would be one, at more parameters."""
    deeper = build_generator(
        spec(3, 5, 8, encoder_width=4, input_size=32, projection="mlp", hidden=7), projection(8, 4)
    ).eval()
    features = torch.randn(2, 32)
    first, last = deeper.to_logits[0], deeper.last_layer
    assert torch.allclose(deeper.to_logits(features), last(first(features).relu()), atol=1e-6)
    assert (first.out_features, last.in_features, last.out_features) == (7, 7, 15)


class TestDirectGenerator:
    def test_output_k_d_plus_d_is_value_d_of_prompt_k(self):
        """The order in which a start writes prompts into the bias."""
        direct = DirectGenerator(spec(3, 0, 8, library="none", encoder_width=4, input_size=32)).eval()
        torch.nn.init.zeros_(direct.last_layer.weight)
        prompts = torch.randn(3, 8)
        direct.last_layer.bias.data.copy_(prompts.flatten())
        assert torch.equal(direct(torch.randn(1, 3, 32, 32))[0], prompts)


class TestPixels:
    def test_prompts_of_an_rgb_library_are_its_patches_projected(self):
        """Pixels first, then the ViT's own first layer."""
        first = projection(8, 4)
        rgb = build_generator(spec(3, 5, 8, encoder_width=4, input_size=32, library="rgb", patch_size=4), first).eval()
        images = torch.randn(2, 3, 32, 32)
        assert rgb.patches(images).shape == (2, 3, 3, 4, 4)
        assert torch.equal(rgb.patches(images), rgb.library.patches(rgb.mixture(images)))
        assert torch.equal(rgb(images), first(rgb.patches(images)))

    def test_latent_prompts_are_no_pixels(self, generator):
        """They have to be looked for, which is another module's work."""
        with pytest.raises(ValueError, match="latent"):
            generator.patches(torch.randn(1, 3, 32, 32))

    @pytest.mark.parametrize(
        ("first", "reason"),
        [
            (None, "needs the patch projection"),
            (projection(8, 2), "4 px.*2 px"),
            (projection(6, 4), "width 8.*width 6"),
        ],
    )
    def test_a_projection_of_another_shape_is_refused(self, first, reason):
        """Pixels mean nothing without the one layer that reads them."""
        with pytest.raises(ValueError, match=reason):
            build_generator(spec(3, 5, 8, library="rgb", patch_size=4), first)


class TestFixedPrompts:
    def test_every_image_gets_the_same_prompts(self):
        """That is what input-independent means."""
        fixed = FixedPrompts(SMALL.model_copy(update={"encoder": "none", "library_size": 0}))
        prompts = fixed(torch.randn(4, 3, 32, 32))
        assert prompts.shape == (4, 3, 8)
        assert torch.equal(prompts, fixed.prompts.expand(4, 3, 8))


class TestLoading:
    @pytest.fixture
    def bundle(self, tmp_path) -> Bundle:
        """A toy bundle with four prompts and six tokens."""
        return read_bundle(make_bundle(tmp_path, "digits", "ab" * 32))

    def test_a_loaded_generator_is_the_bundles(self, bundle):
        """Every tensor arrives, to the bit."""
        state = load_generator(bundle).state_dict()
        theirs = {name: array for name, array in bundle.tensors.items() if name.startswith("generator.")}
        assert all(np.array_equal(state[name.removeprefix("generator.")], array) for name, array in theirs.items())

    def test_a_loaded_generator_is_frozen(self, bundle):
        """Serving never learns, and its norms use what training measured."""
        generator = load_generator(bundle)
        assert not any(module.training for module in generator.modules())
        assert not any(parameter.requires_grad for parameter in generator.parameters())

    def test_a_loaded_generator_is_no_second_copy(self, bundle):
        """A bank holds hundreds: their weights are the bundle's own bytes, which all processes share."""
        state = load_generator(bundle).state_dict()
        for name, array in bundle.tensors.items():
            if name.startswith("generator."):
                assert state[name.removeprefix("generator.")].data_ptr() == array.ctypes.data

    @pytest.mark.parametrize("name", ["generator.to_logits.bias", "generator.encoder.stem.1.running_mean"])
    def test_a_missing_tensor_is_refused_by_name(self, bundle, name):
        """Random values in its place would answer without complaint."""
        tensors = {key: array for key, array in bundle.tensors.items() if key != name}
        with pytest.raises(BundleInvalid, match=f"(?s)generator of digits.*{name.removeprefix('generator.')}"):
            load_generator(replace(bundle, tensors=tensors))

    def test_an_extra_tensor_is_refused_by_name(self, bundle):
        """Weights that nobody uses belong to another network."""
        tensors = {**bundle.tensors, "generator.encoder.blocks.4.conv1.weight": np.zeros(1, np.float32)}
        with pytest.raises(BundleInvalid, match=r"blocks\.4\.conv1"):
            load_generator(replace(bundle, tensors=tensors))

    def test_a_tensor_of_another_shape_is_refused(self, bundle):
        """The manifest's sizes are what the network is built from."""
        tensors = {**bundle.tensors, "generator.to_logits.bias": np.zeros(7, np.float32)}
        with pytest.raises(BundleInvalid, match=r"to_logits\.bias"):
            load_generator(replace(bundle, tensors=tensors))

    def test_an_rgb_bundle_is_loaded_onto_a_projection(self, tmp_path):
        """Stage 1 of serving has the backbone's first layer and nothing else of it; bundles may share it."""
        bundle = read_bundle(make_bundle(tmp_path, "digits", "ab" * 32, library="rgb"))
        generator = load_generator(bundle, ANY_PROJECTION)
        assert generator.library.projection is ANY_PROJECTION
        assert np.array_equal(generator.library.pixel_logits, bundle.tensors["generator.library.pixel_logits"])

    @pytest.mark.parametrize("first", [None, projection(32, 4)])
    def test_an_rgb_bundle_without_its_projection_is_refused(self, tmp_path, first):
        """The bank keeps the reason and serves the others."""
        bundle = read_bundle(make_bundle(tmp_path, "digits", "ab" * 32, library="rgb"))
        with pytest.raises(BundleInvalid, match=r"generator of digits.*(needs the patch projection|4 px)"):
            load_generator(bundle, first)
