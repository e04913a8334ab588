"""What can be trained around the frozen backbone, one file each, behind one small interface."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final

from pgn.errors import UsageError
from training.methods.encoder import EncoderAlone
from training.methods.frozen import LinearHead, ZeroShot
from training.methods.full import FullFineTuning
from training.methods.iip import InputIndependentPrompts
from training.methods.interface import Method
from training.methods.pgn import PromptGeneration
from training.methods.vapt import AdaptivePromptTuning
from training.methods.vp import VisualPrompting
from training.methods.vpt import DeepPromptTuning, ShallowPromptTuning

if TYPE_CHECKING:
    from training.config import TrainConfig

METHODS: dict[str, Method] = {
    "zero-shot": ZeroShot(),
    "linear": LinearHead(),
    "full": FullFineTuning(),
    "encoder": EncoderAlone(),
    "iip": InputIndependentPrompts(),
    "vp": VisualPrompting(),
    "vpt-shallow": ShallowPromptTuning(),
    "vpt-deep": DeepPromptTuning(),
    "vapt": AdaptivePromptTuning(),
    "pgn": PromptGeneration(),
}


# Options that are read where another one has one of these values, and nowhere else.
_READ_WITH: Final[Mapping[str, Mapping[str, tuple[str, ...]]]] = {
    "encoder_width": {"encoder": ("resnet10",)},
    "crop": {"encoder": ("mlp",)},
    "hidden": {"encoder": ("mlp",), "projection": ("mlp",)},
    "library_size": {"library": ("latent", "rgb")},
    "library_rate": {"library": ("latent", "rgb")},
    "template": {"head": ("text",)},
    "shift": {"augment": ("small",)},
    "flip": {"augment": ("small", "paper")},
}


def without_effect(config: TrainConfig, said: Iterable[str]) -> list[str]:
    """A line about what of the options `said` changes nothing: its method, or the values of others, pass it over."""
    said = list(said)
    own = METHODS[config.method].options
    foreign = frozenset[str]().union(*(each.options for each in METHODS.values())) - own
    idle = [name for name in said if name in foreign]
    lines = (
        [f"{', '.join(map(_flag, idle))}; --method {config.method} does not read {'it' if len(idle) == 1 else 'them'}"]
        if idle
        else []
    )
    for name in said:
        readers = {other: values for other, values in _READ_WITH.get(name, {}).items() if other not in foreign}
        if name not in idle and readers and not any(getattr(config, other) in readers[other] for other in readers):
            values = [f"{_flag(other)} {value}" for other in readers for value in readers[other]]
            lines.append(f"{_flag(name)}; it is read with {' or '.join(values)}")
    if "head_rate" in said and not head_learns(config):
        lines.append("--head-rate; the head does not learn")
    return [f"without effect: {line}" for line in lines]


def head_learns(config: TrainConfig) -> bool:
    """Whether the head learns: by default a linear one does and class embeddings stay, and some methods need it so."""
    needed = METHODS[config.method].head_learns
    wish = config.head == "linear" if config.train_head is None else config.train_head
    return wish if needed is None else needed


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def with_usual_head(given: dict[str, Any]) -> dict[str, Any]:
    """The fields of a config as given, and the method's usual head where none is.

    Raises:
        UsageError: No such method, or the method cannot have that head or go on from a bundle.
    """
    name = given.get("method", "pgn")
    method = METHODS.get(name) if isinstance(name, str) else None
    if method is None:
        raise UsageError(f"there is no method {name!r}", hint=f"one of {', '.join(METHODS)}")
    head, learns = given.get("head", method.heads[0]), given.get("train_head")
    if head not in method.heads:
        raise UsageError(f"{name} cannot have a head of kind {head!r}", hint=f"it has {' or '.join(method.heads)}")
    if learns is not None and method.head_learns not in (None, learns):
        raise UsageError(
            f"{name} trains nothing, so no head either" if learns else f"the head of {name} has to learn",
            hint=f"leave out --{'train' if learns else 'fixed'}-head",
        )
    if given.get("start_from") and not method.served:
        served = [key for key, each in METHODS.items() if each.served]
        raise UsageError(f"{name} cannot start from a bundle", hint=f"only {' and '.join(served)} can")
    return {**given, "head": head}
