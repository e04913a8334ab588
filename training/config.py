"""One frozen TrainConfig: everything that decides a run, and what of it follows from the number of images.

The command line's flags are the fields' names; `command` writes a config back as the command that makes it.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator, model_validator

from pgn.bundle import NAME_PATTERN
from pgn.errors import UsageError
from training.data.dataset import Dataset
from training.data.registry import open_datasets

OFF_FLAGS = {"train_head": "--fixed-head"}  # where it is not --no-...
ENCODER_RATE = 2e-3  # among prompts; a quarter of it if the encoder has learned alone, lest it forget (docs/adr/0015)
ENCODER_ALONE_RATE = 5e-3  # of the encoder alone: what the grid `rates` found best for it; among prompts it is too fast
MAX_RATE = 1e30  # beyond it AdamW's own arithmetic leaves the range of a float


def _listed(given: object) -> object:
    return (given,) if isinstance(given, str | Path) else given


OneOrMore = BeforeValidator(_listed)
"""In a file, one thing need not be a list."""


class Recipe(BaseModel):
    """How long and how fast to learn, and how large the generator is.

    Rates are AdamW's. The library's is the largest: its tokens are as large as patch tokens, and have to move.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    num_prompts: int = Field(8, ge=1, le=4096, description="K; fills image rows if a multiple of the backbone's grid")
    library_size: int = Field(64, ge=1, le=65536, description="N tokens in the library")
    epochs: int = Field(10, ge=1)
    encoder_first: int = Field(0, ge=0, description="pgn: epochs in which the encoder learns alone, before prompts")
    batch_size: int = Field(32, ge=2, description="images of a micro-batch; a step has `accumulate` of them")
    library_rate: float = Field(1e-2, gt=0, le=MAX_RATE, description="learning rate of the token library or prompts")
    encoder_rate: float = Field(
        ENCODER_RATE, gt=0, le=MAX_RATE, description="learning rate of the image encoder and its logits"
    )
    head_rate: float = Field(1e-3, gt=0, le=MAX_RATE, description="learning rate of the head")


class TrainConfig(BaseModel):
    """A run: what is learned from what, on which backbone, into which folder."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dataset: Annotated[tuple[str, ...], OneOrMore] = Field(
        min_length=1, description="what `open_dataset` reads; several make a union"
    )
    method: str = Field("pgn", description="a key of training.methods.METHODS")
    out: Path
    name: str | None = Field(None, pattern=NAME_PATTERN, description="name of the bundle, if not the data set's")
    data_dir: Path = Path("data")
    backbone: Path = Path("model_store/backbones/pgn-vit-128")
    cache: Path = Field(Path(".cache/features"), description="where features of the unprompted backbone are kept")
    template: str | None = Field(None, description="class text for the head `text`, if not the data set's")
    seed: int = Field(0, ge=0, le=2**31 - 1)
    limit: int | None = Field(None, ge=1, description="most training images of a class")
    limit_val: int | None = Field(None, ge=1, description="most validation images of a class")
    fraction: float | None = Field(None, gt=0, le=1, description="share of the training images of each class")
    recipe: Recipe = Recipe()
    # Options of the methods, with defaults that suit the rest.
    head: Literal["linear", "text", "prototypes"] = Field("linear", description="by default the method's usual one")
    train_head: bool | None = Field(None, description="by default a linear head learns, class embeddings stay")
    start_from: Annotated[tuple[Path, ...], OneOrMore] = Field(
        (), description="pgn, iip: bundles or runs to go on from"
    )
    encoder: Literal["resnet10", "resnet18", "mlp"] = "resnet10"
    encoder_width: int = Field(16, ge=1, le=1024, description="channels of resnet10's first layer")
    input_size: int = Field(64, ge=32, description="side in pixels of what the encoder sees")
    crop: int = Field(32, ge=1, description="side in pixels of the centre that the encoder mlp sees")
    hidden: int = Field(256, ge=1, le=65536, description="width of the hidden layer of an mlp, encoder or projection")
    projection: Literal["linear", "mlp"] = Field("linear", description="from the encoder's features to the mixture")
    library: Literal["latent", "rgb", "none"] = Field("latent", description="tokens, patches of pixels, or none")
    frame: int | None = Field(None, ge=1, description="vp: width in pixels, by default the paper's share of the side")
    frame_std: float = Field(0.0, ge=0, description="vp: standard deviation of the start; the paper's is 1")
    prompt_dropout: float = Field(0.1, ge=0, lt=1, description="vpt-deep, vapt: share of values dropped in training")
    vapt_kernel: int = Field(2, ge=1, description="vapt: side of the convolution in patches")
    vapt_rank: int = Field(8, ge=1, description="vapt: width of the bottleneck")
    tower_rate: float = Field(5e-5, gt=0, le=MAX_RATE, description="full: learning rate of the ViT's own weights")
    optimizer: Literal["adamw", "sgd"] = Field("adamw", description="AdamW, or SGD with momentum 0.9")
    schedule: Literal["cosine", "paper"] = Field("cosine", description="a rate for each step, or one for an epoch")
    weight_decay: float = Field(0.01, ge=0)
    warmup: float = Field(0.1, ge=0, le=1, description="share of the steps in which the rates rise")
    accumulate: int = Field(1, ge=1, description="micro-batches of a step, shared among the processes there are")
    clip_norm: float | None = Field(None, gt=0, description="longest gradient; longer ones are scaled down")
    patience: int | None = Field(None, ge=1, description="epochs without a better validation before training stops")
    augment: Literal["small", "paper", "none"] = Field("small", description="how training images are changed")
    shift: float = Field(0.03, ge=0, le=0.5, description="largest random shift, as a share of the side")
    flip: bool | None = Field(None, description="mirror at random; by default if the data set allows it")
    keep: float = Field(1.0, gt=0, le=1, description="share of the patches that a training step sees")
    bf16: bool = Field(True, description="frozen tower in bfloat16 while training; evaluation is always float32")
    compile: bool = Field(False, description="have torch compile the frozen tower's blocks")

    @field_validator("template")
    @classmethod
    def _template_has_one_place(cls, given: str | None) -> str | None:
        if given is not None and given.count("{}") != 1:
            raise ValueError("it needs one {} for the class name")
        return given

    @model_validator(mode="before")
    @classmethod
    def _options_fit_the_method(cls, given: dict[str, Any]) -> dict[str, Any]:
        from training.methods import with_usual_head  # the methods' files import torch, and read this one's types

        return with_usual_head(given)


def option_defaults() -> dict[str, Any]:
    """What each option is if nobody says it, the recipe's among them; PydanticUndefined for those that are needed."""
    return {name: field.default for name, field in {**TrainConfig.model_fields, **Recipe.model_fields}.items()}


def defaults_for(num_images: int) -> Recipe:
    """The recipe for so many training images: the fewer, the more often each is seen."""
    for below, epochs in ((500, 30), (2_000, 12), (10_000, 6)):
        if num_images < below:
            return Recipe(epochs=epochs)
    return Recipe(epochs=4)


def usual_encoder_rate(method: str, encoder_first: int) -> float:
    """The encoder's learning rate if none is given: alone, among prompts, or there after it has learned alone."""
    if method == "encoder":
        return ENCODER_ALONE_RATE
    return ENCODER_RATE / 4 if method == "pgn" and encoder_first else ENCODER_RATE


def open_images(config: TrainConfig) -> Dataset:
    """The config's data set, or the union of several, as large as the config wants it; nothing is decoded yet."""
    return open_datasets(
        config.dataset, config.data_dir, limit=config.limit, limit_val=config.limit_val, fraction=config.fraction
    )


def moved(config: TrainConfig, *, backbone: Path | None, data_dir: Path | None) -> TrainConfig:
    """The config with the frozen ViT and the images where they are today; None is where they were.

    In `data_dir` named sets are looked for, and files and folders by their last names.
    """
    if backbone:
        config = config.model_copy(update={"backbone": backbone})
    if data_dir:
        specs = tuple(_in_folder(spec, data_dir) for spec in config.dataset)
        config = config.model_copy(update={"data_dir": data_dir, "dataset": specs})
    return config


def _in_folder(spec: str, folder: Path) -> str:
    """The spec with its file or folder in `folder`, if there is one of that name."""
    kind, colon, path = spec.partition(":")
    here = folder / Path(path).name
    return f"{kind}:{here}" if colon and here.exists() else spec


def num_processes() -> int:
    """How many processes work on this run: as many as `torchrun` started, or this one alone."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_first_process() -> bool:
    """Whether this process is the one that writes and speaks for all of them."""
    return os.environ.get("RANK", "0") == "0"


def plan(dataset: Sequence[str] | str, out: Path | str, **given: Any) -> TrainConfig:
    """The config of a run: what is given, and for the rest of the recipe the defaults for that many images.

    Args:
        dataset: Specs, one or several.
        out: Folder of the run.
        given: Fields of TrainConfig and of Recipe; None stands for "not given".

    Raises:
        UsageError: A value makes no sense; the message names every such field.
        DataInvalid: The images cannot be trained on.
    """
    given = {"accumulate": num_processes()} | {name: value for name, value in given.items() if value is not None}
    try:
        config = as_given(dataset, out, **given)
    except ValidationError as error:
        raise UsageError("; ".join(faults_of(error)), hint="`pgn train --help` lists the options") from error
    said = config.recipe.model_dump(exclude_unset=True)
    rate = {"encoder_rate": usual_encoder_rate(config.method, config.recipe.encoder_first)}
    defaults = defaults_for(len(open_images(config).train))
    return config.model_copy(update={"recipe": defaults.model_copy(update=rate | said)})


def as_given(dataset: Sequence[str] | str, out: Path | str, **given: Any) -> TrainConfig:
    """The config of a run as far as it is given, and no image looked at; raises pydantic's ValidationError.

    Args:
        dataset: As of `plan`.
        out: As of `plan`.
        given: Fields of TrainConfig and of Recipe.
    """
    recipe = {name: given.pop(name) for name in list(given) if name in Recipe.model_fields}
    return TrainConfig.model_validate({"dataset": dataset, "out": out, "recipe": recipe, **given})


def faults_of(error: ValidationError) -> list[str]:
    """What is wrong, option by option, with the names that a user writes: `epochs`, not `recipe.epochs`."""
    return [f"{_option(fault['loc'])} = {fault['input']!r}: {fault['msg']}" for fault in error.errors()]


def _option(place: tuple[int | str, ...]) -> str:
    return ".".join(str(part) for part in place if part != "recipe")


def command(config: TrainConfig) -> str:
    """The `pgn train` command that makes this config: the whole recipe, and what else is not as by default."""
    words = ["pgn", "train"]
    fields = {**config.model_dump(exclude={"recipe"}, mode="json"), **config.recipe.model_dump(mode="json")}
    shown = {"dataset", "method", "out", "seed", *Recipe.model_fields}
    for name, value in fields.items():
        field = TrainConfig.model_fields.get(name)
        if name not in shown and field is not None and str(value) == str(field.default):
            continue
        flag = "--" + name.replace("_", "-")
        if isinstance(value, bool):
            words.append(flag if value else OFF_FLAGS.get(name, flag.replace("--", "--no-", 1)))
        else:
            for item in value if isinstance(value, list) else [value]:
                words += [flag, str(item)]
    return shlex.join(words)
