"""The prompt generation network: an encoder writes a mixture over a token library for each prompt of each image."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from pgn.bundle import GeneratorSpec
from pgn.errors import UsageError
from pgn.method.backbone import FrozenBackbone
from pgn.method.generator import DirectGenerator, PromptGenerator, build_generator
from pgn.method.inversion import require_whole_rows
from pgn.method.library import RGBLibrary
from pgn.method.projection import projection_of
from training.config import ENCODER_ALONE_RATE
from training.methods.interface import Adapter, Method
from training.methods.prompted import PromptedAdapter
from training.methods.warm_start import lends_encoder, start_encoder, start_generator
from training.result import Reach

if TYPE_CHECKING:
    from training.config import TrainConfig
    from training.setting import Setting

ENCODER_OPTIONS = frozenset({"encoder", "encoder_width", "input_size", "crop", "hidden"})
OWN_TOKEN_BIAS = 5.0  # its share of the mixture is then 0.7 in a library of 64
ENCODER_FOLDER = "encoder"  # in the run's folder: the run in which the encoder learned alone


class PromptGeneration(Method):
    """K prompts that depend on the image, written by a small network beside the ViT."""

    reach: ClassVar[Reach] = "input"
    served = True
    options = frozenset(
        {*ENCODER_OPTIONS, "num_prompts", "library", "library_size", "projection"}
        | {"library_rate", "encoder_rate", "encoder_first", "start_from", "keep"}
    )
    parameters = "E + (F + 1)*K*N + N*D"
    source = "Loedeman et al., arXiv 2210.06466"

    def check(self, config: TrainConfig, backbone: FrozenBackbone) -> None:
        """The encoder's crop fits, and prompts that are pixels fill whole rows: they have no other use."""
        super().check(config, backbone)
        spec = generator_spec(config, backbone)
        if spec.library == "rgb":
            require_whole_rows(spec.num_prompts, backbone.grid)

    def first(self, setting: Setting) -> TrainConfig | None:
        """The encoder learns the classes by itself, with a head that is then thrown away, if the config wants that.

        Through the frozen ViT it learns little in a short training: the gradient that reaches it has passed all blocks
        and a mixture that leans on one token. Alone it learns fast, and cheaply, for the ViT is not asked
        (docs/adr/0015).
        """
        config, epochs = setting.config, setting.config.recipe.encoder_first
        if not epochs:
            return None
        spec = generator_spec(config, setting.backbone)
        for path, bundle in zip(config.start_from, setting.starts, strict=True):
            if lends_encoder(bundle, spec):
                raise UsageError(
                    f"the encoder cannot both come from {path} and learn alone first",
                    hint="leave --encoder-first or that --start-from away",
                )
        changes = {"epochs": epochs, "encoder_first": 0, "encoder_rate": ENCODER_ALONE_RATE}
        recipe = config.recipe.model_copy(update=changes)
        other = {"method": "encoder", "out": config.out / ENCODER_FOLDER, "recipe": recipe}
        return config.model_copy(
            update={**other, "head": "linear", "train_head": None, "start_from": (), "patience": None, "compile": False}
        )

    def start(self, setting: Setting) -> Adapter:
        """A library of patches drawn at random, the encoder as in the paper, and each prompt leaning on one token.

        The library starts among the tokens of the training images as the ViT sees them: small random vectors would be
        blown up by the norm that follows and spoil the features that the head starts from. A flat mixture would make
        every prompt the mean of the library, which is no patch and harms the features as well; leaning, the PGN
        starts as input-independent prompts would, while the encoder finds out when to mix. An RGB library starts as
        the pixels that stand for such tokens, not as patches of images: those lack the tokens' positions. Without a
        library the projection's bias starts as K tokens.

        An encoder that has learned alone (`first`) starts from there. With bundles to start from, their parts replace
        these (`warm_start`).
        """
        backbone = setting.backbone
        spec = generator_spec(setting.config, backbone)
        generator = build_generator(spec, projection_of(backbone) if spec.library == "rgb" else None)
        if isinstance(generator, PromptGenerator):
            if isinstance(generator.library, RGBLibrary):
                generator.library.start_from_tokens(_drawn(setting.patches(), spec.library_size))
            else:
                generator.library.tokens.data.copy_(_drawn(setting.patches(), spec.library_size))
            lean(generator)
        else:
            assert isinstance(generator, DirectGenerator)
            generator.last_layer.bias.data.copy_(_drawn(setting.patches(), spec.num_prompts).flatten())
        if first := self.first(setting):
            start_encoder(generator, first.out)
        for bundle in setting.starts:
            start_generator(generator, bundle)
        return PromptedAdapter(generator)

    def groups(self, adapter: Adapter, config: TrainConfig) -> list[dict[str, Any]]:
        """The encoder with its projection, and the library at its larger rate."""
        assert isinstance(adapter, PromptedAdapter)
        generator = adapter.generator
        library = [*generator.library.parameters()] if isinstance(generator, PromptGenerator) else []
        among = {id(parameter) for parameter in library}
        encoder = [parameter for parameter in generator.parameters() if id(parameter) not in among]
        groups = [
            {"params": encoder, "lr": config.recipe.encoder_rate, "weight_decay": config.weight_decay},
            {"params": library, "lr": config.recipe.library_rate, "weight_decay": 0.0},
        ]
        return [group for group in groups if group["params"]]


def generator_spec(config: TrainConfig, backbone: FrozenBackbone) -> GeneratorSpec:
    """The shape of generator that the config asks for, on that backbone.

    Raises:
        UsageError: The centre crop is larger than what the encoder sees.
    """
    mlp = config.encoder == "mlp"
    input_size = min(config.input_size, backbone.spec.preprocess.size)
    if mlp and config.crop > input_size:
        raise UsageError(
            f"a centre crop of {config.crop} px does not fit into the {input_size} px that the encoder sees",
            hint="lower --crop, or raise --input-size up to the backbone's size",
        )
    return GeneratorSpec(
        encoder=config.encoder,
        encoder_width=config.encoder_width,
        num_prompts=config.recipe.num_prompts,
        library_size=0 if config.library == "none" else config.recipe.library_size,
        embed_dim=backbone.embed_dim,
        library=config.library,
        input_size=input_size,
        antialias=True,
        projection=config.projection,
        hidden=config.hidden if mlp or config.projection == "mlp" else None,
        crop=config.crop if mlp else None,
        patch_size=backbone.patch_size if config.library == "rgb" else None,
    )


def lean(generator: PromptGenerator) -> None:
    """Let prompt k lean on token k modulo N, by its bias alone."""
    spec = generator.spec
    bias = generator.last_layer.bias.data.view(spec.num_prompts, spec.library_size)
    own = torch.arange(spec.num_prompts)
    bias[own, own % spec.library_size] += OWN_TOKEN_BIAS


def _drawn(rows: Tensor, count: int) -> Tensor:
    return rows[torch.randint(len(rows), (count,))]
