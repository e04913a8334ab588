"""The prompt generation network: image -> mixture over the token library -> prompts for the frozen ViT."""

from __future__ import annotations

from typing import Final, TypeAlias, cast

import torch
from torch import Tensor, nn

from pgn.bundle import Bundle, GeneratorSpec
from pgn.errors import BundleInvalid, one_line
from pgn.method.encoders import build_encoder, resize_for
from pgn.method.library import INITIAL_STD, RGBLibrary, TokenLibrary
from pgn.method.projection import PatchProjection

_NO_BATCHES: Final = torch.tensor(0)


class PromptGenerator(nn.Module):
    """The PGN of the paper: an encoder, a projection to K x N logits, softmax over N, token library.

    Args:
        spec: Its shape; encoder and library are not "none".
        projection: The frozen ViT's first layer, for the library "rgb".

    Raises:
        ValueError: The library is "rgb" and the projection is missing or has another P or D.

    Source: Loedeman et al., BMVC 2024, section "Prompt Generator Networks".
    """

    def __init__(self, spec: GeneratorSpec, projection: PatchProjection | None = None) -> None:
        super().__init__()
        self.spec = spec
        self.encoder = build_encoder(spec)
        self.to_logits = _build_projection(spec, self.encoder.features, spec.num_prompts * spec.library_size)
        self.library = _build_library(spec, projection)

    @property
    def last_layer(self) -> nn.Linear:
        """Gives the logits, output k * N + n that of token n in prompt k; its bias alone is what no image changes."""
        return _last_layer(self.to_logits)

    def mixture(self, images: Tensor) -> Tensor:
        """(B, 3, S, S) normalised images -> (B, K, N) mixture; rows sum to 1."""
        logits: Tensor = self.to_logits(self.encoder(resize_for(self.spec, images)))
        return logits.view(-1, self.spec.num_prompts, self.spec.library_size).softmax(dim=-1)

    def patches(self, images: Tensor) -> Tensor:
        """(B, 3, S, S) normalised images -> (B, K, 3, P, P) prompts as RGB, each value one of 0, 1/255, .. 1.

        Raises:
            ValueError: The library is latent; `pgn.method.inversion` looks for its pixels.
        """
        if not isinstance(self.library, RGBLibrary):
            raise ValueError("the prompts of a latent library are no pixels")
        return self.library.patches(self.mixture(images))

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, S, S) normalised images -> (B, K, D) prompts."""
        return cast("Tensor", self.library(self.mixture(images)))


class DirectGenerator(nn.Module):
    """A PGN without library: the projection writes all K x D values of the prompts, at many more parameters.

    Source: the paper's ablation of the token library.
    """

    def __init__(self, spec: GeneratorSpec) -> None:
        super().__init__()
        self.spec = spec
        self.encoder = build_encoder(spec)
        self.to_prompts = _build_projection(spec, self.encoder.features, spec.num_prompts * spec.embed_dim)

    @property
    def last_layer(self) -> nn.Linear:
        """Gives the prompts, output k * D + d; its bias alone is what no image changes."""
        return _last_layer(self.to_prompts)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, S, S) normalised images -> (B, K, D) prompts."""
        prompts: Tensor = self.to_prompts(self.encoder(resize_for(self.spec, images)))
        return prompts.view(-1, self.spec.num_prompts, self.spec.embed_dim)


class FixedPrompts(nn.Module):
    """Input-independent prompts (IIP): K free vectors, the same for every image."""

    def __init__(self, spec: GeneratorSpec) -> None:
        super().__init__()
        self.spec = spec
        self.prompts = nn.Parameter(torch.randn(spec.num_prompts, spec.embed_dim) * INITIAL_STD)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, S, S) images -> (B, K, D) prompts."""
        return self.prompts.expand(len(images), -1, -1)


Generator: TypeAlias = PromptGenerator | DirectGenerator | FixedPrompts
"""What writes prompts: (B, 3, S, S) normalised images -> (B, K, D) prompts."""


def build_generator(spec: GeneratorSpec, projection: PatchProjection | None = None) -> Generator:
    """A generator of that shape with the paper's initial values, drawn from torch's global random state.

    `projection` is needed for the library "rgb" and not looked at for others; raises as `PromptGenerator` does.
    """
    if spec.encoder == "none":
        return FixedPrompts(spec)
    return DirectGenerator(spec) if spec.library == "none" else PromptGenerator(spec, projection)


def load_generator(bundle: Bundle, projection: PatchProjection | None = None) -> Generator:
    """The bundle's generator, frozen and in eval mode, on the CPU, where its weights are those of the bundle: no copy.

    Args:
        bundle: A verified bundle.
        projection: The frozen ViT's first layer, for the library "rgb"; several generators may share one.

    Raises:
        BundleInvalid: The bundle's tensors are not those of its manifest's generator, or do not fit the projection.
    """
    try:
        generator = build_generator(bundle.manifest.generator, projection)
    except ValueError as error:
        raise BundleInvalid(f"the generator of {bundle.manifest.dataset} {bundle.version}: {error}") from error
    weights = {
        name.removeprefix("generator."): torch.from_numpy(array)
        for name, array in bundle.tensors.items()
        if name.startswith("generator.")
    }
    # BatchNorm's step counters have no use in eval mode and are not in a bundle.
    counters = {name: _NO_BATCHES for name in generator.state_dict() if name.endswith("num_batches_tracked")}
    try:
        generator.load_state_dict(weights | counters, assign=True)
    except RuntimeError as error:
        raise BundleInvalid(
            f"the generator of {bundle.manifest.dataset} {bundle.version}: {one_line(error)}"
        ) from error
    return generator.eval().requires_grad_(False)


def _build_projection(spec: GeneratorSpec, features: int, outputs: int) -> nn.Linear | nn.Sequential:
    if spec.projection == "mlp" and spec.hidden is not None:
        return nn.Sequential(nn.Linear(features, spec.hidden), nn.ReLU(), nn.Linear(spec.hidden, outputs))
    return nn.Linear(features, outputs)


def _last_layer(projection: nn.Linear | nn.Sequential) -> nn.Linear:
    return projection if isinstance(projection, nn.Linear) else cast("nn.Linear", projection[-1])


def _build_library(spec: GeneratorSpec, projection: PatchProjection | None) -> TokenLibrary | RGBLibrary:
    if spec.library == "latent":
        return TokenLibrary(spec.library_size, spec.embed_dim)
    if projection is None:
        raise ValueError("a library of pixels needs the patch projection of its backbone")
    if (spec.patch_size, spec.embed_dim) != (projection.patch_size, projection.embed_dim):
        raise ValueError(
            f"its patches of {spec.patch_size} px and prompts of width {spec.embed_dim} are not the backbone's "
            f"({projection.patch_size} px, width {projection.embed_dim})"
        )
    return RGBLibrary(spec.library_size, projection)
