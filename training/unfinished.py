"""What a run that has not ended can give to another: its best epoch so far, as a bundle to go on from.

So what a run learned before it diverged is not lost: another one, with lower rates, goes on from there.
"""

from __future__ import annotations

import hashlib
from datetime import datetime, timezone

from torch import Tensor

from pgn.bundle import BackboneRef, Bundle, HeadSpec, Manifest
from pgn.errors import BundleIncompatible, UsageError
from pgn.method.backbone import FrozenBackbone
from training.data.dataset import safe_name
from training.methods import METHODS
from training.methods.iip import prompts_spec
from training.methods.pgn import generator_spec
from training.probe import fold
from training.run import BestSoFar


def as_bundle(found: BestSoFar, backbone: FrozenBackbone) -> Bundle:
    """The model of that epoch, with all that a run which goes on from it reads, and nothing of what serving needs.

    Raises:
        UsageError: The run has not finished an epoch, or its method makes no bundle.
        BundleIncompatible: It is a run on another backbone.
    """
    config, folder = found.config, found.config.out
    if not METHODS[config.method].served:
        raise UsageError(f"the run in {folder} is of {config.method}, which makes no bundle", hint="give another")
    if not found.model:
        raise UsageError(f"the run in {folder} has not finished an epoch", hint="leave that --start-from away")
    if found.backbone != backbone.digest:
        raise BundleIncompatible(f"the run in {folder} is on another backbone than {backbone.spec.name}")
    own = "adapter."
    tensors = {name.removeprefix(own): tensor for name, tensor in found.model.items() if name.startswith(own)}
    manifest = Manifest(
        dataset=config.name or safe_name(folder.name),
        classes=found.classes,
        method="pgn" if config.method == "pgn" else "iip",
        generator=(generator_spec if config.method == "pgn" else prompts_spec)(config, backbone),
        head=HeadSpec(kind=config.head, features=backbone.num_features),
        backbone=BackboneRef(name=backbone.spec.name, digest=backbone.digest),
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
    )
    if config.head == "linear":
        tensors |= _linear_head(found.model)
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(name.encode() + tensor.detach().numpy().tobytes())
    arrays = {name: tensor.detach().float().numpy() for name, tensor in tensors.items()}
    return Bundle(manifest, arrays, digest.hexdigest())


def _linear_head(model: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weight (C, features) and bias (C) for raw features, of a head that learned or of the linear probe that stayed."""
    if "head.mean" not in model:
        return {name: model[f"head.{name}"] for name in ("head.weight", "head.bias")}
    head = fold(*(model[f"head.{name}"] for name in ("weight", "bias", "mean", "std")))
    assert head.bias is not None  # a linear head has one
    return {"head.weight": head.weight, "head.bias": head.bias}
