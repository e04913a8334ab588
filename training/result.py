"""What a finished run found: result.json, the same for every method, and the row of a comparison."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, ValidationError
from torch import Tensor

from pgn.errors import ArtefactError
from pgn.method.backbone import FrozenBackbone
from pgn.method.quantise import stored_name

RESULT_FILE, WEIGHTS_FILE = "result.json", "weights.safetensors"

Reach: TypeAlias = Literal["nothing", "output", "input", "inner", "weights"]
"""What a method needs of the ViT to answer: not the ViT at all, what it gives, a place in its input (tokens or pixels),
its inner tokens, or weights of its own."""


class RunResult(BaseModel):
    """A run's outcome. Scores are `Scores.brief()`: shares in 0..1, of the best epoch's model in float32.

    Attributes:
        method: Key of training.methods.METHODS.
        dataset: Name of the data set, under which a bundle is served.
        specs: What was given as --dataset.
        seed: Of the run.
        bundle: File in the run's folder, if the method is served.
        weights: File in the run's folder with adapter and head, if it is not.
        reach: What the method needs of the ViT to answer.
        input_only: Whether that is a place in its input and nothing else.
        served: Whether the method's result is a bundle.
        trained_parameters: Values that learned, the head's among them.
        adapted_parameters: The same without the head's.
        backbone_parameters: Values of the frozen ViT.
        classes: C.
        split_sizes: Readable images of train, val and test.
        epochs: Epochs trained; fewer than planned if validation stopped the run.
        best_epoch: The one whose model this is, counted from 1; 0 if nothing was trained.
        seconds: Of training and validation, over all starts of the run, and of a run that had to come first.
        val: Scores that chose the epoch.
        test: Scores on the test split, which was looked at once.
        linear_probe: Its regularisation `C`, the number of training `images` that it was fitted on, and its `val` and
            `test` on the plain features.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: str
    dataset: str
    specs: list[str]
    seed: int
    bundle: str | None
    weights: str | None
    reach: Reach
    input_only: bool
    served: bool
    trained_parameters: int
    adapted_parameters: int
    backbone_parameters: int
    classes: int
    split_sizes: dict[str, int]
    epochs: int
    best_epoch: int
    seconds: float
    val: dict[str, Any]
    test: dict[str, Any]
    linear_probe: dict[str, Any]


def read_result(folder: Path) -> RunResult | None:
    """The result of the run in `folder`; None if it has not ended.

    Raises:
        ArtefactError: The file is damaged, or of another version of this project.
    """
    file = folder / RESULT_FILE
    if not file.exists():
        return None
    try:
        return RunResult.model_validate_json(file.read_bytes())
    except ValidationError as error:
        fault = error.errors()[0]
        raise ArtefactError(
            f"{file} is no result of a run: {'.'.join(map(str, fault['loc']))} {fault['msg']}".lower(),
            hint="train again into another folder",
        ) from error


def finished_bundle(folder: Path) -> Path | None:
    """The path of the bundle of the run in `folder`, once that has ended and if its method is served.

    Raises:
        ArtefactError: As `read_result`.
    """
    result = read_result(folder)
    return folder / result.bundle if result and result.bundle else None


def outcome(folder: Path, result: RunResult) -> Path:
    """What training hands back: the path of the bundle, or of result.json for a method that is not served."""
    return folder / (result.bundle or RESULT_FILE)


def count_parameters(parameters: Iterable[Tensor]) -> int:
    """How many values these tensors hold, each tensor counted once."""
    return sum(tensor.numel() for tensor in {id(tensor): tensor for tensor in parameters}.values())


def backbone_parameters(backbone: FrozenBackbone) -> int:
    """How many values the frozen ViT holds; the scales of int8 rows are no values of their own."""
    named = backbone.named_parameters()
    return count_parameters(tensor for name, tensor in named if not stored_name(name).endswith("weight_scale"))
