"""The prompt generator has the paper's size, and writes the same prompts wherever it runs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from pgn.bundle import Bundle, GeneratorSpec, read_bundle
from pgn.errors import BundleInvalid
from pgn.method.generator import FixedPrompts, PromptGenerator, build_generator, load_generator
from tests.toys import make_bundle

SMALL = GeneratorSpec(encoder="resnet10", encoder_width=4, num_prompts=3, library_size=5, embed_dim=8, input_size=32)


def spec(num_prompts: int = 16, library_size: int = 256, embed_dim: int = 768) -> GeneratorSpec:
    """The paper's configuration with other sizes."""
    return GeneratorSpec(
        encoder="resnet10",
        num_prompts=num_prompts,
        library_size=library_size,
        embed_dim=embed_dim,
        input_size=224,
    )


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

    def test_a_loaded_generator_owns_its_memory(self, bundle):
        """A bundle stays what its digest says, whatever is done to the model."""
        load_generator(bundle).library.tokens.data.zero_()
        assert bundle.tensors["generator.library.tokens"].any()

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
