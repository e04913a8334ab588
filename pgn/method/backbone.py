"""The frozen ViT: images in, features out, with prompts between the patch tokens and the first norm.

Prompts come after `[CLS, patches]` with positions already added, get no position themselves, and pass `ln_pre` where
there is one. Two adapters, for open_clip's CLIP towers and timm's ViTs, give both the same steps: `embed`, `encode`,
and `forward`, which is one after the other; `enter`, `blocks` and `read_out` are `encode` taken apart. Nothing here
ever trains: parameters carry no gradient and `.train()` leaves the tower in eval mode.

Source: Loedeman et al., BMVC 2024; the place of insertion is that of the authors' released code.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from typing_extensions import Self

from pgn.backbone_spec import WEIGHTS_FILE, BackboneSpec, file_sha256, read_spec, verify_weights, write_spec
from pgn.errors import BackboneInvalid, one_line
from pgn.method.pixels import Normalise
from pgn.method.quantise import quantise_linears, stored_name


class FrozenBackbone(nn.Module, ABC):
    """A ViT that answers and never changes.

    Attributes:
        spec: What it is; holds its preprocessing.
        normalise: (B, S, S, 3) uint8 squares -> (B, 3, S, S) float32 input.
        digest: The backbone's digest, to which bundles are bound; empty for one that came from no folder.
        embed_dim: D, the width of its tokens and so of prompts.
        num_features: Width of what it gives to a head.
        num_prefix: Tokens before the patches: the class token and registers.
        grid: Patches in a row; K prompts fill whole image rows if K is a multiple of it.
        patch_size: P, the side of a patch in pixels.
        pools_patches: Whether the features come from all patch tokens, of which there is a fixed number, instead of the
            class token; then no patch may be left out.
    """

    embed_dim: int
    num_features: int
    num_prefix: int
    grid: int
    patch_size: int
    pools_patches: bool = False

    def __init__(self, vit: nn.Module, spec: BackboneSpec, digest: str = "") -> None:
        super().__init__()
        self.vit: Any = vit
        self.spec = spec
        self.digest = digest
        self.normalise = Normalise(spec.preprocess)
        self.requires_grad_(False)
        self.train(False)

    def train(self, mode: bool = True) -> Self:  # noqa: ARG002
        """Stay in eval mode: a frozen tower has no other, whatever the module around it is set to."""
        return super().train(False)

    def embed(self, images: Tensor) -> Tensor:
        """Tokens before any norm: those of the ViT's own image with positions, then those of rows below it without.

        Args:
            images: (B, 3, S + R, S), R rows of pixels below the square, often 0. The rows are how a prompted image
                carries its prompts: whole patches, whose position is zero (docs/adr/0005).

        Returns:
            (B, prefix + grid * grid + patches below, D), row by row.

        Raises:
            ValueError: The image is not as wide, or its height no whole number of patches above that.
        """
        side, patch = self.grid * self.patch_size, self.patch_size
        height, width = images.shape[2:]
        if width != side or height < side or (height - side) % patch:
            raise ValueError(f"{width} x {height} px do not fit a ViT of {side} px with patches of {patch} px")
        tokens = self.embed_square(images[:, :, :side])
        if height > side:
            tokens = torch.cat([tokens, self.project(images[:, :, side:])], dim=1)
        return tokens

    @abstractmethod
    def embed_square(self, images: Tensor) -> Tensor:
        """(B, 3, S, S) -> (B, prefix + patches, D) tokens with positions, before any norm."""

    @abstractmethod
    def project(self, images: Tensor) -> Tensor:
        """(B, 3, rows * P, columns * P) -> (B, rows * columns, D) patch tokens without positions, row by row."""

    @property
    @abstractmethod
    def blocks(self) -> nn.ModuleList | nn.Sequential:
        """The transformer's blocks in order, each (B, tokens, D) -> (B, tokens, D)."""

    @abstractmethod
    def enter(self, tokens: Tensor) -> Tensor:
        """(B, tokens, D) as `embed` gives them -> what the first block sees."""

    @abstractmethod
    def read_out(self, tokens: Tensor) -> Tensor:
        """(B, tokens, D) after the last block -> (B, num_features), never read from prompts."""

    def encode(self, tokens: Tensor) -> Tensor:
        """(B, tokens, D) with prompts last -> (B, num_features)."""
        tokens = self.enter(tokens)
        for block in self.blocks:
            tokens = block(tokens)
        return self.read_out(tokens)

    def forward(self, images: Tensor, prompts: Tensor | None = None) -> Tensor:
        """Features of prompted images.

        Args:
            images: (B, 3, S, S) normalised.
            prompts: (B, K, D), or None for the plain ViT.

        Returns:
            (B, num_features), not normalised. Without prompts equal to the library's own forward.
        """
        tokens = self.embed(images)
        if prompts is not None:
            tokens = torch.cat([tokens, prompts.to(tokens.dtype)], dim=1)
        return self.encode(tokens)


class OpenClipBackbone(FrozenBackbone):
    """A vision tower of open_clip with class-token read-out (every OpenAI CLIP ViT is one)."""

    def __init__(self, vit: nn.Module, spec: BackboneSpec, digest: str = "") -> None:
        super().__init__(vit, spec, digest)
        if self.vit.attn_pool is not None or self.vit.pool_type != "tok":
            raise BackboneInvalid(f"backbone {spec.name} does not read its answer from the class token")
        if type(self.vit.transformer.resblocks[-1]).__name__ != "ResidualAttentionBlock":
            raise BackboneInvalid(f"backbone {spec.name} is not made of CLIP's own blocks")
        self.embed_dim, self.num_features = self.vit.proj.shape
        self.num_prefix = 1
        self.grid, self.patch_size = self.vit.grid_size[0], self.vit.patch_size[0]

    def embed_square(self, images: Tensor) -> Tensor:
        """(B, 3, S, S) -> (B, 1 + patches, D) tokens with positions, before `ln_pre`."""
        patches = self.project(images)
        class_token = self.vit.class_embedding.expand(len(patches), 1, -1)
        return cast("Tensor", torch.cat([class_token, patches], dim=1) + self.vit.positional_embedding)

    def project(self, images: Tensor) -> Tensor:
        """(B, 3, rows * P, columns * P) -> (B, rows * columns, D)."""
        return cast("Tensor", self.vit.conv1(images).flatten(2).transpose(1, 2))

    @property
    def blocks(self) -> nn.ModuleList:
        """CLIP's residual attention blocks."""
        return cast("nn.ModuleList", self.vit.transformer.resblocks)

    def enter(self, tokens: Tensor) -> Tensor:
        """(B, tokens, D) through `ln_pre`."""
        return cast("Tensor", self.vit.ln_pre(tokens))

    def read_out(self, tokens: Tensor) -> Tensor:
        """(B, tokens, D) -> (B, num_features): the class token after `ln_post`, projected."""
        return cast("Tensor", self.vit.ln_post(tokens[:, 0]) @ self.vit.proj)

    def encode(self, tokens: Tensor) -> Tensor:
        """(B, tokens, D) -> (B, num_features), without what the last block makes of tokens that nobody reads."""
        *blocks, last = self.blocks
        tokens = self.enter(tokens)
        for block in blocks:
            tokens = block(tokens)
        return self.read_out(_class_token_after(last, tokens))


def _class_token_after(block: Any, tokens: Tensor) -> Tensor:
    """(B, tokens, D) -> (B, 1, D): what `block` makes of the class token alone.

    Nobody reads the last block's other tokens, so their queries and their MLP are left out: 1 / layers of the
    tower's work, less keys and values.
    """
    keys = block.ln_1(tokens)
    class_token = tokens[:, :1] + block.ls_1(block.attention(keys[:, :1], k_x=keys, v_x=keys))
    return cast("Tensor", class_token + block.ls_2(block.mlp(block.ln_2(class_token))))


class TimmBackbone(FrozenBackbone):
    """A `VisionTransformer` of timm; the features are what its own classifier would see."""

    def __init__(self, vit: nn.Module, spec: BackboneSpec, digest: str = "") -> None:
        super().__init__(vit, spec, digest)
        self.embed_dim = self.num_features = self.vit.embed_dim
        self.num_prefix = self.vit.num_prefix_tokens
        self.grid, self.patch_size = self.vit.patch_embed.grid_size[0], self.vit.patch_embed.patch_size[0]
        self.pools_patches = self.vit.global_pool != "token"

    def embed_square(self, images: Tensor) -> Tensor:
        """(B, 3, S, S) -> (B, prefix + patches, D) tokens with positions."""
        return cast("Tensor", self.vit._pos_embed(self.vit.patch_embed(images)))

    def project(self, images: Tensor) -> Tensor:
        """(B, 3, rows * P, columns * P) -> (B, rows * columns, D)."""
        patches = self.vit.patch_embed.proj(images).flatten(2).transpose(1, 2)
        return cast("Tensor", self.vit.patch_embed.norm(patches))

    @property
    def blocks(self) -> nn.Sequential:
        """Timm's blocks."""
        return cast("nn.Sequential", self.vit.blocks)

    def enter(self, tokens: Tensor) -> Tensor:
        """(B, tokens, D) through `norm_pre`, where there is one."""
        return cast("Tensor", self.vit.norm_pre(tokens))

    def read_out(self, tokens: Tensor) -> Tensor:
        """(B, tokens, D) -> (B, num_features), read from the ViT's own tokens."""
        own = self.num_prefix + self.vit.patch_embed.num_patches
        return cast("Tensor", self.vit.forward_head(self.vit.norm(tokens)[:, :own], pre_logits=True))


def build_vit(spec: BackboneSpec) -> nn.Module:
    """The ViT of that architecture with random weights; heavy libraries are imported only here.

    Raises:
        BackboneInvalid: The architecture's fields are not those of the library.
    """
    try:
        if spec.library == "timm":
            import timm

            options = {name: value for name, value in spec.architecture.items() if name != "model"}
            name = spec.architecture["model"]
            vit = timm.create_model(name, pretrained=False, act_layer=spec.activation, **options)
            if not isinstance(vit, timm.models.VisionTransformer):
                raise BackboneInvalid(f"backbone {spec.name}: timm's {name} is a {type(vit).__name__}, no plain ViT")
            return vit
        from open_clip.model import QuickGELU
        from open_clip.transformer import VisionTransformer

        activation = QuickGELU if spec.activation == "quick_gelu" else nn.GELU
        tower: nn.Module = VisionTransformer(**spec.architecture, act_layer=activation)
        return tower
    except (TypeError, KeyError, RuntimeError) as error:
        raise BackboneInvalid(
            f"backbone {spec.name}: {spec.library} cannot build its architecture: {one_line(error)}"
        ) from error


def adapt(vit: nn.Module, spec: BackboneSpec, digest: str = "") -> FrozenBackbone:
    """`vit` behind the one interface, frozen."""
    return (TimmBackbone if spec.library == "timm" else OpenClipBackbone)(vit, spec, digest)


def load_backbone(folder: Path, device: torch.device | str = "cpu") -> FrozenBackbone:
    """The frozen ViT in `folder`, verified, in float32 on `device`; linear layers of an int8 folder stay int8.

    Raises:
        BackboneInvalid: Missing, incomplete or damaged; or its weights do not fit its architecture.
    """
    spec, digest = read_spec(folder)
    path = verify_weights(folder, spec)
    backbone = adapt(build_vit(spec), spec, digest)
    if spec.precision == "int8":
        quantise_linears(backbone.blocks)
    names = {stored_name(name): name for name in backbone.vit.state_dict()}
    try:
        weights = load_file(path)
        backbone.vit.load_state_dict({names.get(name, name): tensor for name, tensor in weights.items()})
    except (RuntimeError, SafetensorError) as error:
        raise BackboneInvalid(f"{folder}: the weights do not fit the architecture: {one_line(error)}") from error
    return backbone.to(device)


def save_backbone(folder: Path, vit: nn.Module, spec: BackboneSpec, *, dtype: torch.dtype = torch.float32) -> str:
    """Write `vit` as a backbone folder and return its digest; `weights_sha256` of `spec` is filled in.

    Args:
        folder: Made if it is not there.
        vit: What `build_vit(spec)` builds, with the weights to freeze.
        spec: Everything but the weights' digest.
        dtype: How weights are stored; they are read back as float32.
    """
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: tensor.to(dtype).contiguous() for name, tensor in vit.state_dict().items()}
    save_file(weights, folder / WEIGHTS_FILE)
    with (folder / WEIGHTS_FILE).open("rb") as file:
        return write_spec(folder, spec.model_copy(update={"weights_sha256": file_sha256(file)}))
