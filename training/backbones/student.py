"""The student: open_clip's VisionTransformer, a start that trains fast, and a forward pass over kept tokens.

The modules are open_clip's own, so a trained state dict loads into open_clip as it is.
"""

import math
from dataclasses import asdict, dataclass

import torch
from open_clip.pos_embed import get_2d_sincos_pos_embed
from open_clip.transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn.functional import linear


@dataclass(frozen=True)
class Architecture:
    """Sizes of the student, named as open_clip's VisionTransformer names them."""

    image_size: int = 128
    patch_size: int = 16
    width: int = 256
    layers: int = 6
    heads: int = 4
    mlp_ratio: float = 4.0
    output_dim: int = 256

    @property
    def grid(self) -> int:
        """Patches along a side."""
        return self.image_size // self.patch_size


def build_student(architecture: Architecture, seed: int) -> VisionTransformer:
    """Return a freshly initialised student; the same seed gives the same weights.

    The patch projection starts orthogonal: it is frozen later together with the rest, and prompt inversion divides
    by its singular values, so they should stay close to each other. The output projection is the identity and is never
    trained: what the model returns is its class token, which serves new data sets a little better than its image in
    the teacher's space does (docs/adr/0006).

    Raises:
        ValueError: the output is not as wide as the tokens.
    """
    if architecture.output_dim != architecture.width:
        raise ValueError(f"output_dim {architecture.output_dim} is not width {architecture.width}; make them equal")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        student = VisionTransformer(**asdict(architecture))
        nn.init.orthogonal_(student.conv1.weight.flatten(1))
        nn.init.eye_(student.proj.requires_grad_(False))
        positions = get_2d_sincos_pos_embed(architecture.width, architecture.grid, cls_token=True)
        student.positional_embedding.data.copy_(0.5 * torch.from_numpy(positions))
        for block in student.transformer.resblocks:
            _start_mimetic(block.attn)
    return student


@torch.no_grad()
def _start_mimetic(attention: nn.MultiheadAttention) -> None:
    """Start attention near the identity, as trained attention looks.

    Source: Trockman and Kolter, "Mimetic Initialization of Self-Attention Layers", ICML 2023.
    """
    width, heads = attention.embed_dim, attention.num_heads
    head_width = width // heads
    query, key, value = attention.in_proj_weight.chunk(3)
    for head in range(heads):
        rows = slice(head * head_width, (head + 1) * head_width)
        left, sizes, right = torch.linalg.svd(0.7 * _noise(width) + 0.7 * torch.eye(width))
        roots = sizes[:head_width].sqrt()[:, None]
        query[rows] = roots * left.T[:head_width]  # query' key is close to the noisy identity
        key[rows] = roots * right[:head_width]
    left, sizes, right = torch.linalg.svd(0.4 * _noise(width) - 0.4 * torch.eye(width))
    value.copy_(sizes.sqrt()[:, None] * right)
    attention.out_proj.weight.copy_(left * sizes.sqrt())


def _noise(width: int) -> Tensor:
    return torch.randn(width, width) / math.sqrt(width)


def encode_kept(student: VisionTransformer, images: Tensor, kept: Tensor) -> tuple[Tensor, Tensor]:
    """Encode only some patches of each image; with all patches kept this equals open_clip's forward pass.

    Args:
        student: as `build_student` returns it.
        images: (B, 3, H, W) normalised float32.
        kept: (B, K) int64, row-major indices into the patch grid.

    Returns:
        The class token (B, D) and the kept patch tokens (B, K, D), both after `ln_post` and before `proj`.
    """
    size = student.patch_size[0]
    grid = images.unfold(2, size, size).unfold(3, size, size)  # (B, 3, rows, columns, size, size), a view
    row, column = kept // student.grid_size[1], kept % student.grid_size[1]
    # Patches are picked before they are projected, so that dropped ones cost nothing.
    patches = grid.permute(0, 2, 3, 1, 4, 5)[torch.arange(len(images))[:, None], row, column]
    tokens = linear(patches.flatten(2), student.conv1.weight.flatten(1)) + student.positional_embedding[1:][kept]
    cls = (student.class_embedding + student.positional_embedding[0]).expand(len(images), 1, -1)
    hidden = student.ln_pre(torch.cat([cls, tokens], dim=1))
    for block in student.transformer.resblocks:
        hidden = hidden + _attend(block.attn, block.ln_1(hidden))
        hidden = hidden + block.mlp(block.ln_2(hidden))
    encoded = student.ln_post(hidden)
    return encoded[:, 0], encoded[:, 1:]


def encode_all(student: VisionTransformer, images: Tensor) -> Tensor:
    """Return the class token (B, D) after `ln_post` of whole images (B, 3, H, W) in 0..1; `proj` is still to come."""
    count = student.grid_size[0] * student.grid_size[1]
    return encode_kept(student, (images - 0.5) / 0.5, torch.arange(count).expand(len(images), -1))[0]


def _attend(attention: nn.MultiheadAttention, tokens: Tensor) -> Tensor:
    """Return self-attention of (B, L, D) tokens, on the module's weights.

    Two plain products and a softmax: on a CPU and for sequences this short, training is nearly twice as fast as with
    the module's own fused attention.
    """
    heads = linear(tokens, attention.in_proj_weight, attention.in_proj_bias).unflatten(2, (3, attention.num_heads, -1))
    query, key, value = heads.permute(2, 0, 3, 1, 4).unbind(0)  # each (B, heads, L, D / heads)
    mixture = (query @ key.mT / math.sqrt(query.shape[-1])).softmax(dim=-1)
    mixed: Tensor = attention.out_proj((mixture @ value).transpose(1, 2).flatten(2))
    return mixed


def condition_number(student: VisionTransformer) -> float:
    """Return largest over smallest singular value of the patch projection as a (D, 3 * patch * patch) matrix."""
    sizes = torch.linalg.svdvals(student.conv1.weight.detach().double().flatten(1))
    return float(sizes[0] / sizes[-1])
