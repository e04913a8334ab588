"""The prompt generation network in all its variants: each starts where it should, and learns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pgn.errors import UsageError
from pgn.method.encoders import build_encoder
from pgn.method.generator import DirectGenerator, PromptGenerator
from pgn.method.library import MARGIN, RGBLibrary
from pgn.method.projection import PatchInverse
from tests.toys import make_bundle
from training.heads import PlainHead, start_head
from training.methods import METHODS
from training.methods.pgn import PromptGeneration, generator_spec
from training.methods.prompted import PromptedAdapter
from training.result import count_parameters
from training.setting import Setting

INPUTS = torch.randn(5, 3, 32, 32, generator=torch.Generator().manual_seed(0))
VARIANTS = [
    {"encoder": "resnet18"},
    {"encoder": "mlp", "crop": 16, "hidden": 24},
    {"library": "rgb"},
    {"library": "none"},
    {"projection": "mlp", "hidden": 24},
    {"library": "rgb", "projection": "mlp", "hidden": 24},
    {"library": "none", "projection": "mlp", "hidden": 24},
    {"num_prompts": 9, "library_size": 3},
]
COUNTS = {
    ("latent", "linear"): "E + (F + 1)*K*N + N*D",
    ("rgb", "linear"): "E + (F + 1)*K*N + 3*N*P**2",
    ("none", "linear"): "E + (F + 1)*K*D",
    ("latent", "mlp"): "E + (F + 1)*H + (H + 1)*K*N + N*D",
    ("rgb", "mlp"): "E + (F + 1)*H + (H + 1)*K*N + 3*N*P**2",
    ("none", "mlp"): "E + (F + 1)*H + (H + 1)*K*D",
}
"""The formulas of docs/methods.md, by library and projection."""


def _start(setting: Setting) -> PromptedAdapter:
    adapter = METHODS["pgn"].start(setting)
    assert isinstance(adapter, PromptedAdapter)
    return adapter


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_every_variant_learns_with_all_its_parameters(variant: dict, make_setting: Callable[..., Setting]) -> None:
    """Each parameter has a gradient and a rate, and the size is the formula's."""
    setting = make_setting(**variant)
    adapter = _start(setting).train()
    adapter(setting.backbone, INPUTS, None).square().sum().backward()
    grouped = [parameter for group in METHODS["pgn"].groups(adapter, setting.config) for parameter in group["params"]]
    assert {id(p) for p in grouped} == {id(p) for p in adapter.parameters()}
    assert all(parameter.grad is not None for parameter in grouped)
    config, encoder = setting.config, build_encoder(generator_spec(setting.config, setting.backbone))
    letters = {
        "E": count_parameters(encoder.parameters()),
        "F": encoder.features,
        "H": config.hidden,
        "K": config.recipe.num_prompts,
        "N": config.recipe.library_size,
        "D": 32,
        "P": 8,
    }
    assert count_parameters(grouped) == eval(COUNTS[config.library, config.projection], letters)


def test_the_registrys_formula_is_that_of_the_papers_variant() -> None:
    """One truth in two places."""
    assert PromptGeneration.parameters == COUNTS["latent", "linear"]


def test_prompts_of_a_fresh_pgn_already_depend_on_the_image(make_setting: Callable[..., Setting]) -> None:
    """Its start leans on tokens, it is not stuck on them."""
    torch.manual_seed(0)
    first, second = _start(make_setting()).generator(INPUTS[:2])
    assert not torch.allclose(first, second)


@pytest.mark.parametrize("sizes", [(4, 6), (9, 3)])
def test_each_prompt_of_a_fresh_pgn_leans_on_a_token_of_its_own(
    sizes: tuple[int, int], make_setting: Callable[..., Setting]
) -> None:
    """As far as there are enough; a flat mixture would make every prompt the same mean."""
    generator = _start(make_setting(num_prompts=sizes[0], library_size=sizes[1])).generator.eval()
    assert isinstance(generator, PromptGenerator)
    share, token = generator.mixture(INPUTS).mean(0).max(1)
    assert token.tolist() == [prompt % sizes[1] for prompt in range(sizes[0])]
    assert (share > 0.7).all()


def test_an_encoder_alone_is_the_same_run_but_for_the_prompts(make_setting: Callable[..., Setting]) -> None:
    """What decides about images and steps stays; what only a PGN has does not get in the way."""
    setting = make_setting(encoder_first=7, head="prototypes", library="none", augment="paper", seed=3)
    config, first = setting.config, METHODS["pgn"].first(setting)
    assert first is not None
    assert (first.method, first.head, first.recipe.epochs) == ("encoder", "linear", 7)
    assert (first.augment, first.seed, first.dataset) == ("paper", 3, config.dataset)
    assert METHODS["encoder"].first(replace(setting, config=first)) is None
    assert METHODS["iip"].first(setting) is None


def test_an_encoder_has_one_origin(make_setting: Callable[..., Setting], tmp_path: Path) -> None:
    """A bundle's would go over the one that learned alone; its other parts may be lent."""
    digest = make_setting().backbone.digest
    bundle = make_bundle(tmp_path, "shapes", digest)
    with pytest.raises(UsageError, match=f"cannot both come from {bundle} and learn alone first"):
        METHODS["pgn"].first(make_setting(encoder_first=7, start_from=(bundle,)))
    wider = make_setting(encoder_first=7, start_from=(bundle,), encoder_width=8)
    assert METHODS["pgn"].first(wider) is not None


def test_a_latent_library_starts_as_patch_tokens(make_setting: Callable[..., Setting]) -> None:
    """Every token of it is one that the ViT has seen."""
    setting = make_setting()
    generator, patches = _start(setting).generator, setting.patches()
    assert isinstance(generator, PromptGenerator)
    assert all((patches == token).all(1).any() for token in generator.library.tokens)


def test_an_rgb_library_starts_as_pixels_for_patch_tokens(make_setting: Callable[..., Setting]) -> None:
    """Patches of images, without the positions of their tokens, would disturb the features from the first step on."""
    setting = make_setting(library="rgb")
    generator = _start(setting).generator
    assert isinstance(generator, PromptGenerator)
    assert isinstance(generator.library, RGBLibrary)
    inverse = PatchInverse(generator.library.projection)
    candidates = inverse.patches(setting.patches()).float().clamp(MARGIN, 1 - MARGIN)
    distances = [(candidates - patch).abs().amax(dim=(1, 2, 3)).min() for patch in generator.library.palette()]
    assert max(distances) < 1e-4


def test_without_library_the_prompts_start_near_patches(make_setting: Callable[..., Setting]) -> None:
    """What no image changes, the projection's bias, is K patch tokens."""
    setting = make_setting(library="none")
    generator, patches = _start(setting).generator, setting.patches()
    assert isinstance(generator, DirectGenerator)
    assert all((patches == prompt).all(1).any() for prompt in generator.last_layer.bias.view(4, 32))


def test_a_crop_larger_than_the_encoders_input_is_refused(make_setting: Callable[..., Setting]) -> None:
    """The message says how large that is."""
    with pytest.raises(UsageError, match=r"a centre crop of 48 px does not fit into the 32 px"):
        make_setting(encoder="mlp", crop=48)


class TestHeads:
    def test_a_fixed_linear_head_stays_the_probe(self, make_setting: Callable[..., Setting]) -> None:
        """Nothing of it learns, and its logits are the probe's."""
        setting = make_setting(train_head=False)
        head, features = start_head(setting), setting.backbone(INPUTS)
        assert isinstance(head, PlainHead)
        assert not any(parameter.requires_grad for parameter in head.parameters())
        assert torch.equal(head(features), setting.probe.head()(features))

    @pytest.mark.parametrize(("train_head", "learns"), [(None, False), (False, False), (True, True)])
    @pytest.mark.parametrize("kind", ["text", "prototypes"])
    def test_class_embeddings_stay_unless_asked_to_learn(
        self, kind: str, train_head: bool | None, learns: bool, make_setting: Callable[..., Setting]
    ) -> None:
        """Class texts are the paper's fixed classifier; started from them, it may also be trained."""
        head = start_head(make_setting("clip", head=kind, train_head=train_head))
        assert [parameter.requires_grad for parameter in head.parameters()] == [learns]
        assert head.plain().spec.kind == kind


def test_a_library_of_pixels_needs_whole_rows(make_setting: Callable[..., Setting]) -> None:
    """It has no other use than to be written into images; told before training, not after it."""
    with pytest.raises(UsageError, match=r"3 prompts do not fill whole rows of 4 patches.*--num-prompts 4 or 8"):
        make_setting(library="rgb", num_prompts=3)
