"""What can be trained around the frozen backbone, one file each, behind one small interface."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

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


def idle_options(method: str, said: Iterable[str]) -> list[str]:
    """Those of the options that other methods read and this one does not, so that they change nothing."""
    others = frozenset[str]().union(*(each.options for each in METHODS.values())) - METHODS[method].options
    return [name for name in said if name in others]


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
