"""The prompt generation network: image -> mixture over the token library -> prompts for the frozen ViT."""

from __future__ import annotations

from typing import TypeAlias, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pgn.bundle import Bundle, GeneratorSpec
from pgn.errors import BundleInvalid, one_line
from pgn.method.encoders import ResNet10
from pgn.method.library import INITIAL_STD, TokenLibrary


class PromptGenerator(nn.Module):
    """The PGN of the paper: ResNet10, one linear layer to K x N logits, softmax over N, token library.

    Source: Loedeman et al., BMVC 2024, section "Prompt Generator Networks".
    """

    def __init__(self, spec: GeneratorSpec) -> None:
        super().__init__()
        self.spec = spec
        self.encoder = ResNet10(spec.encoder_width)
        self.to_logits = nn.Linear(self.encoder.features, spec.num_prompts * spec.library_size)
        self.library = TokenLibrary(spec.library_size, spec.embed_dim)

    def mixture(self, images: Tensor) -> Tensor:
        """(B, 3, S, S) normalised images -> (B, K, N) mixture; rows sum to 1."""
        size = self.spec.input_size
        if images.shape[-1] != size:
            images = F.interpolate(images, size=(size, size), mode="bilinear", antialias=self.spec.antialias)
        logits: Tensor = self.to_logits(self.encoder(images))
        return logits.view(-1, self.spec.num_prompts, self.spec.library_size).softmax(dim=-1)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, S, S) normalised images -> (B, K, D) prompts."""
        return cast("Tensor", self.library(self.mixture(images)))


class FixedPrompts(nn.Module):
    """Input-independent prompts (IIP): K free vectors, the same for every image."""

    def __init__(self, spec: GeneratorSpec) -> None:
        super().__init__()
        self.spec = spec
        self.prompts = nn.Parameter(torch.randn(spec.num_prompts, spec.embed_dim) * INITIAL_STD)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, S, S) images -> (B, K, D) prompts."""
        return self.prompts.expand(len(images), -1, -1)


Generator: TypeAlias = PromptGenerator | FixedPrompts
"""What writes prompts: (B, 3, S, S) normalised images -> (B, K, D) prompts."""


def build_generator(spec: GeneratorSpec) -> Generator:
    """A generator of that shape with the paper's initial values, drawn from torch's global random state."""
    return FixedPrompts(spec) if spec.encoder == "none" else PromptGenerator(spec)


def load_generator(bundle: Bundle) -> Generator:
    """The bundle's generator, frozen and in eval mode, on the CPU.

    Raises:
        BundleInvalid: The bundle's tensors are not those of its manifest's generator.
    """
    generator = build_generator(bundle.manifest.generator)
    weights = {
        name.removeprefix("generator."): torch.from_numpy(array.copy())
        for name, array in bundle.tensors.items()
        if name.startswith("generator.")
    }
    # BatchNorm's step counters have no use in eval mode and are not in a bundle.
    counters = {name: value for name, value in generator.state_dict().items() if name.endswith("num_batches_tracked")}
    try:
        generator.load_state_dict(weights | counters)
    except RuntimeError as error:
        raise BundleInvalid(
            f"the generator of {bundle.manifest.dataset} {bundle.version}: {one_line(error)}"
        ) from error
    return generator.eval().requires_grad_(False)
