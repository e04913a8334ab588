"""Every method keeps the interface, on every kind of backbone, and says truly what it is."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from pgn.errors import UsageError
from pgn.method.encoders import build_encoder
from training.config import Recipe, TrainConfig, command
from training.heads import start_head
from training.methods import METHODS, without_effect
from training.methods.pgn import generator_spec
from training.methods.prompted import PromptedAdapter
from training.model import AdaptedClassifier
from training.result import count_parameters
from training.setting import Setting

MakeSetting = Callable[..., Setting]
INPUTS = torch.randn(5, 3, 32, 32, generator=torch.Generator().manual_seed(0))
KINDS = ("tower", "clip", "supervised", "dino", "int8")
CASES = [
    (name, kind)
    for name in METHODS
    for kind in KINDS
    if not (name == "zero-shot" and kind != "clip") and not (name == "full" and kind == "int8")
]


def _letters(setting: Setting) -> dict[str, int]:
    """What the letters of a formula stand for in that run."""
    config, backbone = setting.config, setting.backbone
    encoder = build_encoder(generator_spec(setting.config, setting.backbone))
    side = backbone.grid * backbone.patch_size
    return {
        "K": config.recipe.num_prompts,
        "N": config.recipe.library_size,
        "D": backbone.embed_dim,
        "L": len(backbone.blocks),
        "E": count_parameters(encoder.parameters()),
        "F": encoder.features,
        "H": config.hidden,
        "V": count_parameters(p for name, p in backbone.vit.named_parameters() if not name.startswith("head.")),
        "S": side,
        "P": backbone.patch_size,
        "p": config.frame or round(side * 30 / 224),
        "k": config.vapt_kernel,
        "M": (backbone.grid - config.vapt_kernel + 1) ** 2,
        "r": config.vapt_rank,
    }


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_a_method_learns_with_all_its_parameters_and_leaves_the_backbone_alone(
    name: str, kind: str, make_setting: MakeSetting
) -> None:
    """Each parameter is in exactly one group and gets a gradient; none of the frozen ViT's does."""
    setting, method = make_setting(kind, method=name), METHODS[name]
    model = AdaptedClassifier(method.start(setting), start_head(setting)).train()
    logits = model(setting.backbone, INPUTS, None)
    assert logits.shape == (5, 10)
    grouped = [parameter for group in method.groups(model.adapter, setting.config) for parameter in group["params"]]
    assert {id(p) for p in grouped} == {id(p) for p in model.adapter.parameters()}
    assert len(grouped) == len({id(p) for p in grouped})
    assert any(p.requires_grad for p in model.parameters()) == (name != "zero-shot")
    if logits.requires_grad:
        logits.square().sum().backward()
    assert all(parameter.grad is not None for parameter in grouped)
    assert all(p.grad is None and not p.requires_grad for p in setting.backbone.parameters())


@pytest.mark.parametrize("name", METHODS)
def test_the_formula_is_the_number_of_values_that_learn(name: str, make_setting: MakeSetting) -> None:
    """docs/methods.md prints it, and comparisons are judged by it."""
    setting = make_setting("clip", method=name)
    formula = eval(METHODS[name].parameters, _letters(setting))
    assert count_parameters(METHODS[name].start(setting).parameters()) == formula


@pytest.mark.parametrize("name", [name for name in METHODS if name != "zero-shot"])
def test_a_step_may_see_some_of_the_patches(name: str, make_setting: MakeSetting) -> None:
    """Half of them, in training, and its answer is another; `vapt` takes all, and `encoder` looks at the pixels."""
    setting = make_setting(method=name)
    adapter, kept = METHODS[name].start(setting).eval(), torch.arange(9).expand(5, -1)
    half, whole = (adapter(setting.backbone, INPUTS, seen) for seen in (kept, None))
    assert half.shape == whole.shape
    assert torch.equal(half, whole) == (name in ("encoder", "vapt"))
    assert torch.allclose(half, whole, atol=1e-3) == (name in ("encoder", "vapt"))


@pytest.mark.parametrize("name", [name for name in METHODS if name != "zero-shot"])
def test_what_learns_stays_in_float32_under_bfloat16(name: str, make_setting: MakeSetting) -> None:
    """The loop lowers the tower's precision; parameters, gradients and logits keep theirs."""
    setting = make_setting(method=name)
    model = AdaptedClassifier(METHODS[name].start(setting), start_head(setting)).train()
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(setting.backbone, INPUTS, None)
    logits.square().sum().backward()
    assert logits.dtype == torch.float32
    assert all(p.dtype == torch.float32 for p in model.parameters())
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize("name", ["linear", "full", "vp"])
def test_these_start_at_the_linear_probe(name: str, make_setting: MakeSetting) -> None:
    """The first answer is the yardstick's own: training can only move away from it."""
    setting = make_setting(method=name)
    adapter = METHODS[name].start(setting).eval()
    with torch.no_grad():
        assert torch.allclose(adapter(setting.backbone, INPUTS, None), setting.backbone(INPUTS), atol=1e-6)


@pytest.mark.parametrize("name", METHODS)
def test_served_methods_are_those_that_a_bundle_can_hold(name: str, make_setting: MakeSetting) -> None:
    """A bundle carries a generator of prompts and nothing else (docs/adr/0011)."""
    adapter = METHODS[name].start(make_setting("clip", method=name))
    assert METHODS[name].served == isinstance(adapter, PromptedAdapter)


@pytest.mark.parametrize("name", ["vpt-shallow", "vpt-deep", "vapt"])
def test_blocks_that_take_no_plain_tokens_are_refused(
    name: str, make_setting: MakeSetting, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prompts between blocks need blocks that do not ask where a token is."""

    class Windowed(torch.nn.Module):
        def forward(self, tokens: torch.Tensor) -> torch.Tensor:
            return tokens.unflatten(1, (4, 4))

    setting = make_setting(method=name)
    monkeypatch.setattr(type(setting.backbone), "blocks", property(lambda self: torch.nn.ModuleList([Windowed()])))
    with pytest.raises(
        UsageError, match=f"{name} puts prompts before blocks of the ViT, and those of toy take no plain"
    ):
        METHODS[name].check(setting.config, setting.backbone)


ODD = {  # what the toy configs do not say, of every option that is some method's own
    "num_prompts": 5,
    "library_size": 9,
    "library_rate": 0.5,
    "encoder_rate": 0.5,
    "encoder_first": 1,
    "tower_rate": 0.5,
    "encoder": "mlp",
    "encoder_width": 8,
    "input_size": 48,
    "crop": 16,
    "hidden": 9,
    "projection": "mlp",
    "library": "rgb",
    "frame": 3,
    "frame_std": 1.0,
    "prompt_dropout": 0.5,
    "vapt_kernel": 3,
    "vapt_rank": 3,
    "keep": 0.5,
}


class TestOptions:
    def test_what_is_some_methods_own_is_known(self) -> None:
        """`start_from` too, which other methods refuse."""
        assert {*ODD, "start_from"} == frozenset().union(*(method.options for method in METHODS.values()))
        assert {*ODD, "start_from"} <= {*TrainConfig.model_fields, *Recipe.model_fields}

    @pytest.mark.parametrize("name", METHODS)
    def test_what_a_method_does_not_read_changes_nothing(self, name: str, make_setting: MakeSetting) -> None:
        """Neither its start, nor its answers in training, nor its rates."""

        def seen(**changes: object) -> tuple[dict[str, torch.Tensor], torch.Tensor, list]:
            setting, method = make_setting("clip", method=name, **changes), METHODS[name]
            torch.manual_seed(0)
            model = AdaptedClassifier(method.start(setting), start_head(setting)).train()
            rates = [(group["lr"], group["weight_decay"]) for group in method.groups(model.adapter, setting.config)]
            return model.state_dict(), model(setting.backbone, INPUTS, None), rates

        weights, logits, rates = seen()
        others, other_logits, other_rates = seen(**{k: v for k, v in ODD.items() if k not in METHODS[name].options})
        assert weights.keys() == others.keys()
        assert torch.equal(logits, other_logits)
        assert rates == other_rates

    def test_options_without_effect_are_found(self, make_config: Callable[..., TrainConfig]) -> None:
        """Those that another method would read; what all of them read is none's own."""
        said = ["dataset", "library_size", "encoder", "vapt_rank", "frame", "num_prompts", "epochs"]
        assert without_effect(make_config(method="iip"), said) == [
            "without effect: --library-size, --encoder, --vapt-rank, --frame; --method iip does not read them"
        ]
        assert without_effect(make_config(method="pgn"), said) == [
            "without effect: --vapt-rank, --frame; --method pgn does not read them"
        ]

    def test_options_that_others_switch_off_are_found(self, make_config: Callable[..., TrainConfig]) -> None:
        """One line each, with what would read them."""
        said = ["crop", "hidden", "shift", "flip", "library_size", "encoder_width"]
        odd = make_config(augment="paper", library="none")
        assert without_effect(odd, said) == [
            "without effect: --crop; it is read with --encoder mlp",
            "without effect: --hidden; it is read with --encoder mlp or --projection mlp",
            "without effect: --shift; it is read with --augment small",
            "without effect: --library-size; it is read with --library latent or --library rgb",
        ]
        assert without_effect(make_config(projection="mlp"), ["hidden", "library_size"]) == []
        linear = make_config(method="linear")
        assert without_effect(linear, ["crop"]) == ["without effect: --crop; --method linear does not read it"]

    def test_what_the_head_or_the_grid_of_patches_rules_out_is_found(
        self, make_config: Callable[..., TrainConfig]
    ) -> None:
        """A rate of a head that stays, a class text for a linear head, fewer patches for VAPT, which reads all."""
        fixed = make_config(train_head=False, template="a sketch of a {}")
        assert without_effect(fixed, ["head_rate", "template"]) == [
            "without effect: --template; it is read with --head text",
            "without effect: --head-rate; the head does not learn",
        ]
        vapt = make_config(method="vapt", keep=0.5)
        assert without_effect(vapt, ["keep", "head_rate"]) == ["without effect: --keep; --method vapt does not read it"]

    def test_an_unknown_method_is_refused_with_the_list(self, make_config: Callable[..., TrainConfig]) -> None:
        """A typo trains nothing else."""
        with pytest.raises(UsageError, match=r"there is no method 'pgm' \(one of zero-shot, linear, .*, pgn\)"):
            make_config(method="pgm")

    def test_zero_shot_has_the_text_head_without_being_told(self, make_config: Callable[..., TrainConfig]) -> None:
        """It has no other; the config that is saved says so."""
        assert make_config(method="zero-shot").head == "text"
        with pytest.raises(UsageError, match=r"zero-shot cannot have a head of kind 'linear' \(it has text\)"):
            make_config(method="zero-shot", head="linear")

    def test_a_head_that_has_to_learn_cannot_be_fixed(self, make_config: Callable[..., TrainConfig]) -> None:
        """Nothing would be left to train."""
        with pytest.raises(UsageError, match="the head of linear has to learn"):
            make_config(method="linear", train_head=False)
        with pytest.raises(UsageError, match="zero-shot trains nothing"):
            make_config(method="zero-shot", train_head=True)

    def test_only_what_is_served_can_start_from_a_bundle(self, make_config: Callable[..., TrainConfig]) -> None:
        """Bundles hold prompts; other methods have no use for them."""
        with pytest.raises(UsageError, match=r"vp cannot start from a bundle \(only iip and pgn can\)"):
            make_config(method="vp", start_from=("run",))

    def test_every_option_goes_into_the_command(self, make_config: Callable[..., TrainConfig]) -> None:
        """What a result states as its command makes the same run again."""
        config = make_config(train_head=False, library="rgb", start_from=("a", "b"), hidden=9)
        for words in ("--fixed-head", "--library rgb", "--start-from a --start-from b", "--hidden 9"):
            assert words in command(config)
