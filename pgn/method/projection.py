"""The frozen ViT's first layer, taken by itself: the pixels of one patch become one token, and back.

It needs neither blocks nor positions of the ViT, so stage 1 of serving can turn pixels into prompts without hosting the
ViT, and prompt inversion knows what to invert.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from pgn.backbone_spec import BackboneSpec, read_spec, verify_weights
from pgn.errors import BackboneInvalid, one_line
from pgn.method.backbone import FrozenBackbone
from pgn.method.pixels import Normalise

_LAYERS = {"open_clip": "conv1", "timm": "patch_embed.proj"}  # what each library calls the first layer
_NORM = "patch_embed.norm.weight"
RANK_TOLERANCE = 2.0**-23  # float32's precision: weaker directions of the weights, relative to the strongest, are noise


class PatchProjection(nn.Module):
    """RGB patches to patch tokens without position: W (x - mean) / std + b.

    It has buffers alone: nothing of it learns, and nothing of it is in the state of a generator that holds it.

    Args:
        weight: (D, 3, P, P), W with its rows as patches: channel, row, column.
        bias: (D), or None (CLIP has none).
        normalise: The backbone's, with mean and std.
    """

    weight: Tensor
    bias: Tensor | None

    def __init__(self, weight: Tensor, bias: Tensor | None, normalise: Normalise) -> None:
        super().__init__()
        self.register_buffer("weight", weight, persistent=False)
        self.register_buffer("bias", bias, persistent=False)
        self.normalise = normalise

    @property
    def embed_dim(self) -> int:
        """D, width of the tokens."""
        return self.weight.shape[0]

    @property
    def patch_size(self) -> int:
        """P, side of a patch in pixels."""
        return self.weight.shape[-1]

    def forward(self, patches: Tensor) -> Tensor:
        """(..., 3, P, P) RGB in 0..1 -> (..., D) tokens."""
        inputs = self.normalise.rgb(patches)
        return F.linear(inputs.flatten(-3), self.weight.flatten(1), self.bias)


class PatchInverse:
    """Tokens back to pixels: x = W^+ (h - b), the smallest normalised patch whose token is h, or comes nearest to it.

    W^+ is computed once, in float64: in float32 it fails where the condition number is 1e4.

    Attributes:
        width: D.
        rank: Of W. Every token can be reached if it is D, which it cannot be with fewer than D values in a patch.
        condition: Largest over smallest singular value that counts. The larger, the farther pixels leave 0..1.
    """

    def __init__(self, projection: PatchProjection) -> None:
        self.width, self._shape = projection.embed_dim, projection.weight.shape[1:]
        self._weight = projection.weight.flatten(1).double()
        self._bias = torch.zeros_like(self._weight[:, 0]) if projection.bias is None else projection.bias.double()
        self._mean = projection.normalise.mean.double()
        self._std = projection.normalise.std.double()
        left, strengths, right = torch.linalg.svd(self._weight, full_matrices=False)
        self.rank = int((strengths > RANK_TOLERANCE * strengths[0]).sum())
        self.condition = (strengths[0] / strengths[self.rank - 1]).item()
        left, strengths, right = left[:, : self.rank], strengths[: self.rank], right[: self.rank]
        self._inverse: Tensor = (right.T / strengths) @ left.T  # (3 P^2, D)

    def patches(self, prompts: Tensor) -> Tensor:
        """(..., D) prompts -> (..., 3, P, P) float64 RGB; only 0..1 can be shown."""
        inputs = (prompts.double() - self._bias) @ self._inverse.T
        patches: Tensor = inputs.view(*prompts.shape[:-1], *self._shape) * self._std + self._mean
        return patches

    def residual(self, prompts: Tensor) -> Tensor:
        """(..., D) prompts -> (...) float64: the part that no pixels reach, as a share of the prompt (less b)."""
        wanted = prompts.double() - self._bias
        missing = wanted - wanted @ self._inverse.T @ self._weight.T
        share: Tensor = missing.norm(dim=-1) / wanted.norm(dim=-1).clamp(min=1e-30)
        return share


def projection_of(backbone: FrozenBackbone) -> PatchProjection:
    """The first layer of that backbone, in the same memory; raises as `load_projection` does."""
    return _pick(backbone.spec, backbone.vit.state_dict()).to(next(backbone.parameters()).device)


def load_projection(folder: Path) -> PatchProjection:
    """The first layer of the backbone in `folder`, verified, in float32; the rest of the ViT is not loaded.

    Raises:
        BackboneInvalid: Missing or damaged; or its patch tokens are no linear function of the pixels.
    """
    spec, _ = read_spec(folder)
    path = verify_weights(folder, spec)
    start = _LAYERS[spec.library].partition(".")[0]
    try:
        with safe_open(path, "pt") as file:
            weights = {name: file.get_tensor(name).float() for name in file.keys() if name.startswith(start)}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise BackboneInvalid(f"{path} cannot be read as weights: {one_line(error)}") from error
    return _pick(spec, weights)


def _pick(spec: BackboneSpec, weights: Mapping[str, Tensor]) -> PatchProjection:
    layer = _LAYERS[spec.library]
    if f"{layer}.weight" not in weights:
        raise BackboneInvalid(f"backbone {spec.name} has no patch projection {layer}.weight")
    if spec.library == "timm" and _NORM in weights:
        raise BackboneInvalid(
            f"backbone {spec.name} has a norm behind its patch projection, so no pixels stand for a given prompt",
            hint="use a latent token library with this backbone",
        )
    return PatchProjection(weights[f"{layer}.weight"], weights.get(f"{layer}.bias"), Normalise(spec.preprocess))
