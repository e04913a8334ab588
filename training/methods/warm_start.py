"""Prompts that go on from a bundle: `--start-from`, once or several times, the later over the earlier.

A PGN's bundle gives the parts that have the same shape: the encoder (so a union PGN can lend its own to any other), the
library, and the projection if both of these fit. An IIP bundle gives its prompts: the first forward of the PGN is then
exactly that of the input-independent prompts, and training can only add what depends on the image.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from pgn.bundle import Bundle, GeneratorSpec
from pgn.errors import ArtefactError, UsageError
from pgn.method.generator import DirectGenerator, FixedPrompts, Generator, PromptGenerator
from pgn.method.library import TokenLibrary
from training.result import WEIGHTS_FILE

OWN_SHARE = 0.7  # of each prompt's own token at the start; a larger one leaves the softmax too little slope to learn on
SPARE_NOISE = 0.5  # of the prompts' standard deviation: how far a token that no prompt leans on is from a prompt
_SHAPES = {  # the fields of a generator's spec that decide whether a part fits, and what a user calls them
    "encoder": {"encoder": "encoder", "encoder_width": "width", "crop": "crop", "hidden": "hidden width"},
    "library": {"library": "kind", "library_size": "N"},
    "projection": {"num_prompts": "K", "library": "kind of library", "library_size": "N", "projection": "kind"},
}


def start_prompts(generator: FixedPrompts, bundle: Bundle) -> None:
    """Input-independent prompts go on from those of a bundle.

    Raises:
        UsageError: The bundle holds a PGN, or another number of prompts.
    """
    generator.prompts.data.copy_(_prompts(bundle, generator.spec.num_prompts, "iip"))


def start_generator(generator: Generator, bundle: Bundle) -> None:
    """A prompt generation network goes on from a bundle; see the head of this file.

    Raises:
        UsageError: Nothing of the bundle fits, or its prompts cannot be written into this generator's library.
    """
    if bundle.manifest.method == "pgn":
        _take_parts(generator, bundle)
    elif isinstance(generator, DirectGenerator):
        generator.last_layer.weight.data.zero_()
        generator.last_layer.bias.data.copy_(_prompts(bundle, generator.spec.num_prompts, "pgn").flatten())
    else:
        assert isinstance(generator, PromptGenerator)
        _lean_on(generator, _prompts(bundle, generator.spec.num_prompts, "pgn"), bundle)


def start_encoder(generator: PromptGenerator | DirectGenerator, run: Path) -> None:
    """The encoder goes on from the run in folder `run`, in which it has learned alone.

    Raises:
        ArtefactError: The run's files are missing or damaged, or its encoder has another shape.
    """
    file, own = run / WEIGHTS_FILE, "adapter.encoder."
    try:
        weights = load(file.read_bytes())
        generator.encoder.load_state_dict({k.removeprefix(own): t for k, t in weights.items() if k.startswith(own)})
    except (OSError, RuntimeError, SafetensorError) as error:
        fault = str(error).partition(": ")[0]  # what follows names every tensor
        raise ArtefactError(f"{file} holds no such encoder: {fault}", hint="delete that run") from error


def _prompts(bundle: Bundle, count: int, method: str) -> Tensor:
    """(K, D) the free prompts of an IIP bundle."""
    manifest = bundle.manifest
    if manifest.method != "iip":
        raise UsageError(f"{method} cannot start from {bundle.version}, a {manifest.method} bundle")
    if manifest.generator.num_prompts != count:
        raise UsageError(
            f"the bundle to start from has {manifest.generator.num_prompts} prompts, this run {count}",
            hint=f"--num-prompts {manifest.generator.num_prompts}",
        )
    return torch.from_numpy(bundle.tensors["generator.prompts"].copy())


def lends_encoder(bundle: Bundle, spec: GeneratorSpec) -> bool:
    """Whether a generator of that shape takes its encoder from the bundle."""
    return bundle.manifest.method == "pgn" and all(
        getattr(bundle.manifest.generator, name) == getattr(spec, name) for name in _SHAPES["encoder"]
    )


def carried_over(generator: Generator, bundle: Bundle) -> str:
    """What a generator that goes on from a bundle has of it, and what not for which reason; in words, for the user."""
    if bundle.manifest.method == "iip":
        return f"its {bundle.manifest.generator.num_prompts} prompts"
    fits = _parts_that_fit(generator, bundle)
    taken = ", ".join(part for part, fit in fits.items() if fit) or "nothing"
    theirs, ours = bundle.manifest.generator, generator.spec
    left = [f"not the {part} ({_reason(part, theirs, ours)})" for part, fit in fits.items() if not fit]
    return "; ".join([taken, *left])


def _reason(part: str, theirs: GeneratorSpec, ours: GeneratorSpec) -> str:
    """What of the shape of a part that does not fit is another, in a user's word."""
    names = _SHAPES[part].items()
    word = next((word for name, word in names if getattr(theirs, name) != getattr(ours, name)), None)
    return f"another {word}" if word else "what it stands between is another"


def _parts_that_fit(generator: Generator, bundle: Bundle) -> dict[str, bool]:
    """Whether encoder, library and projection of the bundle's PGN fit; a projection needs that both others do."""
    given, fits = _given(bundle), {}
    for part, tensors in _parts(generator).items():
        fits[part] = all(name in given and given[name].shape == tensor.shape for name, tensor in tensors.items())
    return {**fits, "projection": all(fits.values())}


def _parts(generator: Generator) -> dict[str, dict[str, Tensor]]:
    """The tensors of each part, by their name in the generator; the projection last."""
    parts: dict[str, dict[str, Tensor]] = {"encoder": {}, "library": {}, "projection": {}}
    for name, tensor in generator.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            parts.get(name.partition(".")[0], parts["projection"])[name] = tensor
    return {part: tensors for part, tensors in parts.items() if tensors}


def _given(bundle: Bundle) -> dict[str, Tensor]:
    return {
        name.removeprefix("generator."): torch.from_numpy(array.copy())
        for name, array in bundle.tensors.items()
        if name.startswith("generator.")
    }


def _take_parts(generator: Generator, bundle: Bundle) -> None:
    """Copy the encoder, the library, and the projection if both fit."""
    fits, given = _parts_that_fit(generator, bundle), _given(bundle)
    if not any(fits.values()):
        theirs, ours = bundle.manifest.generator, generator.spec
        raise UsageError(
            f"nothing of {bundle.manifest.dataset} {bundle.version} fits this run: its encoder is {theirs.encoder} "
            f"(width {theirs.encoder_width}), its library {theirs.library} of {theirs.library_size}; asked for are "
            f"{ours.encoder} (width {ours.encoder_width}) and {ours.library} of {ours.library_size}",
        )
    with torch.no_grad():
        for part, tensors in _parts(generator).items():
            for name, tensor in tensors.items() if fits[part] else ():
                tensor.copy_(given[name])


@torch.no_grad()
def _lean_on(generator: PromptGenerator, prompts: Tensor, bundle: Bundle) -> None:
    """Make (K, D) `prompts` this generator's answer to every image, with each prompt leaning on a token of its own.

    With the encoder's say at zero, prompt k is s T_k + o (sum of all other tokens), s = `OWN_SHARE`, o = (1 - s) /
    (N - 1). Tokens K.. are spares near some prompt; the first K are solved for, so that the mixture is the prompt
    itself, not the prompt and some average.
    """
    spec = generator.spec
    count, size = spec.num_prompts, spec.library_size
    library = generator.library
    if not isinstance(library, TokenLibrary):
        raise UsageError(
            f"the {spec.library} library cannot hold the latent prompts of {bundle.version}",
            hint="start from a bundle with an RGB library, or train with --library latent",
        )
    if size <= count:
        raise UsageError(
            f"a library of {size} tokens is too small to start from {count} prompts", hint=f"--library-size {count + 1}"
        )
    spares = prompts[torch.arange(size - count) % count]
    spares = spares + SPARE_NOISE * prompts.std() * torch.randn_like(spares)
    others = (1 - OWN_SHARE) / (size - 1)
    lead = OWN_SHARE - others  # prompt k = lead * T_k + others * (sum of all tokens)
    total = (prompts.sum(0) + lead * spares.sum(0)) / (lead + count * others)
    library.tokens.data.copy_(torch.cat([(prompts - others * total) / lead, spares]))
    layer = generator.last_layer
    layer.weight.zero_()
    layer.bias.zero_()
    own = torch.arange(count)
    layer.bias.view(count, size)[own, own] = math.log(OWN_SHARE / others)
