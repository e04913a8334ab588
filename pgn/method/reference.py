"""The authors' released checkpoints: their tensor names to ours and back.

The names are those of github.com/jochemloedeman/PGN at fe5ebc2 (MIT). Sizes are read off the tensors, so any K, N, D
and first-layer width loads; what a file holds beside the generator (a frozen tower, text features) is ignored.
"""

from __future__ import annotations

import pickle
import struct
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from pgn.bundle import GeneratorSpec
from pgn.errors import ArtefactError, one_line
from pgn.method.generator import PromptGenerator

# What torch's weights-only reader raises on bytes that are no pickle of tensors.
_UNPICKLING_ERRORS = (
    pickle.UnpicklingError,
    RuntimeError,
    EOFError,
    LookupError,
    ValueError,
    TypeError,
    AttributeError,
    AssertionError,
    struct.error,
)
_BLOCK = {"net.0": "conv1", "net.1": "norm1", "net.3": "conv2", "net.4": "norm2", "downsample": "skip"}
_PARTS = {
    "tl_vectors": "library.tokens",
    "model.input_net.0": "encoder.stem.0",
    "model.input_net.1": "encoder.stem.1",
    "model.output_net.2": "to_logits",
    **{f"model.blocks.{i}.{a}": f"encoder.blocks.{i}.{b}" for i in range(4) for a, b in _BLOCK.items()},
}


def load_reference(path: Path, *, input_size: int = 224) -> PromptGenerator:
    """The generator in one of the authors' checkpoints, in eval mode.

    Args:
        path: `.safetensors`, or `.pt` (read weights-only: no code in it runs); keys with or without `pgn.`.
        input_size: Side in pixels at which it was trained; the files do not say.

    Raises:
        ArtefactError: Not a checkpoint of the authors' generator; the message names what is missing.
    """
    theirs = {name.removeprefix("pgn."): tensor for name, tensor in _read(path).items()}
    ours = {ours: theirs[name] for name, ours in _names(theirs) if name in theirs}
    try:
        library_size, embed_dim = ours["library.tokens"].shape
        width = len(ours["encoder.stem.0.weight"])
        num_prompts = len(ours["to_logits.bias"]) // library_size
        spec = GeneratorSpec(
            encoder="resnet10",
            encoder_width=width,
            num_prompts=num_prompts,
            library_size=library_size,
            embed_dim=embed_dim,
            input_size=input_size,
        )
        generator = PromptGenerator(spec)
        generator.load_state_dict(ours)
    except (KeyError, ValueError, RuntimeError, ZeroDivisionError) as error:
        raise ArtefactError(f"{path} is not a checkpoint of the authors' generator: {one_line(error)}") from error
    return generator.eval()


def to_reference(generator: PromptGenerator) -> dict[str, Tensor]:
    """The generator's state under the authors' names: 63 tensors."""
    renamed = {ours: theirs for theirs, ours in _PARTS.items()}
    state: dict[str, Tensor] = {}
    for name, tensor in generator.state_dict().items():
        module, _, leaf = name.rpartition(".")
        state[renamed[name] if name in renamed else f"{renamed[module]}.{leaf}"] = tensor
    return state


def _names(theirs: dict[str, Tensor]) -> list[tuple[str, str]]:
    """Pairs (their name, our name) of every tensor that belongs to the generator."""
    pairs = []
    for name in theirs:
        module, _, leaf = name.rpartition(".")
        if name in _PARTS:
            pairs.append((name, _PARTS[name]))
        elif module in _PARTS:
            pairs.append((name, f"{_PARTS[module]}.{leaf}"))
    return pairs


def _read(path: Path) -> dict[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise ArtefactError(f"{path} cannot be read: {error.strerror or error}") from error
    except (SafetensorError, *_UNPICKLING_ERRORS) as error:
        raise ArtefactError(f"{path} cannot be read as weights: {one_line(error)}") from error
    state = loaded.get("state_dict", loaded) if isinstance(loaded, dict) else {}
    return {name: tensor for name, tensor in state.items() if isinstance(tensor, Tensor)}
