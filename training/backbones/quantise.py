"""A backbone folder with int8 weights, made of one with float weights."""

from __future__ import annotations

import shutil
from pathlib import Path

from safetensors.torch import load_file, save_file

from pgn.backbone_spec import WEIGHTS_FILE, file_sha256, read_spec, write_spec
from pgn.errors import UsageError
from pgn.method.backbone import load_backbone
from pgn.method.quantise import quantise_linears, stored_name
from training.backbones.clip import TEXT_FILE


def quantise_folder(folder: Path, out: Path) -> str:
    """Write the backbone of `folder` into `out` with the linear layers of its blocks in int8; returns the new digest.

    Other tensors, and a text tower, are copied as they are. The new folder is another backbone: bundles are bound to
    the one they were trained on.

    Raises:
        UsageError: It is int8 already, or `out` is the same folder.
        BackboneInvalid: The folder does not verify.
    """
    spec, _ = read_spec(folder)
    if spec.precision != "float":
        raise UsageError(f"{folder} is {spec.precision} already")
    if out.resolve() == folder.resolve():
        raise UsageError(f"{out} holds the float weights, which bundles may be bound to", hint="give another --out")
    backbone, stored = load_backbone(folder), load_file(folder / WEIGHTS_FILE)
    quantise_linears(backbone.blocks)
    state = {stored_name(name): tensor.contiguous() for name, tensor in backbone.vit.state_dict().items()}
    quantised = {name.removesuffix("_scale") for name in state.keys() - stored.keys()}
    weights = {name: stored[name] if name in stored.keys() - quantised else tensor for name, tensor in state.items()}
    out.mkdir(parents=True, exist_ok=True)
    save_file(weights, out / WEIGHTS_FILE)
    if (folder / TEXT_FILE).exists():
        shutil.copyfile(folder / TEXT_FILE, out / TEXT_FILE)
    with (out / WEIGHTS_FILE).open("rb") as file:
        digest = file_sha256(file)
    changes = {"name": f"{spec.name[:75]}-int8", "precision": "int8", "weights_sha256": digest}
    return write_spec(out, spec.model_copy(update=changes))
