"""What of a mixed batch is computed together, and what apart.

    OMP_NUM_THREADS=1 python benchmarks/stacking.py

Stage pgn: the generators of a batch that names several bundles, one after the other or stacked into one pass. Sixteen
rows over 1 to 16 bundles with the shapes of the shipped ones (ResNet10 on 64 px, 8 prompts, library of 64), and tokens
of width 128 and 512. Every way gives the same prompts.

Stage vit, with the embedded backbone: sixteen rows in one pass, or divided by their number of prompts; and eight data
sets that ask about one image, which is embedded once or eight times.

In each round every way runs once, in changing order; the median of the processor time over the rounds counts, and is
shown as ratio to that of the first way.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call, stack_module_state, vmap

from pgn.bundle import GeneratorSpec
from pgn.method.backbone import FrozenBackbone, load_backbone
from pgn.method.encoders import ResidualBlock
from pgn.method.generator import PromptGenerator

BACKBONE = Path(__file__).resolve().parents[1] / "model_store" / "backbones" / "pgn-vit-128"
ROWS = 16
ROUNDS = 15
WIDTHS = (128, 512)
BUNDLES = (1, 2, 4, 8, 16)


def make(width: int) -> PromptGenerator:
    """A generator with random weights."""
    spec = GeneratorSpec(
        encoder="resnet10", num_prompts=8, library_size=64, embed_dim=width, input_size=64, antialias=True
    )
    return PromptGenerator(spec).eval().requires_grad_(False)


def loop(generators: Sequence[PromptGenerator], images: Tensor) -> Tensor:
    """(V, rows, 3, S, S): one pass a bundle."""
    return torch.stack([generator(part) for generator, part in zip(generators, images, strict=True)])


def one_skeleton(generators: Sequence[PromptGenerator], images: Tensor) -> Tensor:
    """One pass a bundle, all through one module whose weights are exchanged."""
    skeleton = generators[0]
    return torch.stack(
        [functional_call(skeleton, STATES[id(g)], (p,)) for g, p in zip(generators, images, strict=True)]
    )


def stacked_by_vmap(generators: Sequence[PromptGenerator], images: Tensor) -> Tensor:
    """One pass over weights that are stacked for this batch."""
    parameters, buffers = stack_module_state(list(generators))  # type: ignore[arg-type]

    def run(state: tuple[dict[str, Any], dict[str, Any]], part: Tensor) -> Tensor:
        prompts: Tensor = functional_call(generators[0], state, (part,))
        return prompts

    return vmap(run)((parameters, buffers), images)


def stacked_in_groups(generators: Sequence[PromptGenerator], images: Tensor) -> Tensor:
    """One pass with the bundles as groups of the convolutions' channels: (rows, V * channels, H, W)."""
    count, rows = len(generators), images.shape[1]
    spec = generators[0].spec
    x = F.interpolate(images.flatten(0, 1), size=(spec.input_size,) * 2, mode="bilinear", antialias=spec.antialias)
    x = x.view(count, rows, *x.shape[1:]).transpose(0, 1).flatten(1, 2)

    def convolve(x: Tensor, pick: Callable[[PromptGenerator], Any], stride: int, padding: int) -> Tensor:
        layers = [pick(each) for each in generators]
        bias = None if layers[0].bias is None else torch.cat([layer.bias for layer in layers])
        return F.conv2d(x, torch.cat([layer.weight for layer in layers]), bias, stride, padding, groups=count)

    def norm(x: Tensor, pick: Callable[[PromptGenerator], Any]) -> Tensor:
        layers = [pick(each) for each in generators]
        mean, var, weight, bias = (
            torch.cat([getattr(layer, name) for layer in layers])
            for name in ("running_mean", "running_var", "weight", "bias")
        )
        return F.batch_norm(x, mean, var, weight, bias)

    x = convolve(x, lambda g: g.encoder.stem[0], 2, 1)  # type: ignore[union-attr, index]
    x = F.max_pool2d(torch.relu(norm(x, lambda g: g.encoder.stem[1])), 3, 2, 1)  # type: ignore[union-attr, index]
    for number in range(len(generators[0].encoder.blocks)):  # type: ignore[union-attr, arg-type]

        def block(g: PromptGenerator, number: int = number) -> ResidualBlock:
            return g.encoder.blocks[number]  # type: ignore[union-attr, index, return-value]

        stride = block(generators[0]).conv1.stride[0]
        y = torch.relu(norm(convolve(x, lambda g: block(g).conv1, stride, 1), lambda g: block(g).norm1))
        y = norm(convolve(y, lambda g: block(g).conv2, 1, 1), lambda g: block(g).norm2)
        skip = x if stride == 1 else convolve(x, lambda g: block(g).skip, stride, 0)
        x = torch.relu(y + skip)
    features = x.mean(dim=(2, 3)).view(rows, count, -1).transpose(0, 1)  # (V, rows, features)
    weights, biases = (torch.stack([getattr(g.last_layer, name) for g in generators]) for name in ("weight", "bias"))
    logits = torch.baddbmm(biases[:, None], features, weights.transpose(1, 2))
    mixture = logits.view(count, rows, spec.num_prompts, spec.library_size).softmax(dim=-1)
    tokens = torch.stack([g.library.tokens for g in generators])  # type: ignore[union-attr]
    return torch.bmm(mixture.flatten(1, 2), tokens).view(count, rows, spec.num_prompts, spec.embed_dim)


WAYS = {"loop": loop, "one skeleton": one_skeleton, "vmap": stacked_by_vmap, "groups": stacked_in_groups}
STATES: dict[int, dict[str, Tensor]] = {}


def compare(ways: dict[str, Callable[[], Any]]) -> dict[str, float]:
    """Median seconds of processor time of each way, which other work on the machine changes little."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(ROUNDS):
        names = list(ways)
        for name in names[number % len(names) :] + names[: number % len(names)]:
            start = time.process_time()
            ways[name]()
            times[name].append(time.process_time() - start)
    return {name: statistics.median(each) for name, each in times.items()}


def measure_generators(width: int, count: int) -> dict[str, float]:
    """Seconds a batch over `count` bundles, by way."""
    generators = [make(width) for _ in range(count)]
    STATES.update((id(each), {**dict(each.named_parameters()), **dict(each.named_buffers())}) for each in generators)
    images = torch.randn(count, ROWS // count, 3, 128, 128)
    wanted = loop(generators, images)
    for way in WAYS.values():
        torch.testing.assert_close(way(generators, images), wanted, atol=1e-5, rtol=1e-4)
    return compare({name: partial(way, generators, images) for name, way in WAYS.items()})


def measure_vit(backbone: FrozenBackbone) -> tuple[dict[str, float], dict[str, float]]:
    """Seconds of sixteen rows in passes of several kinds, and of eight data sets that ask about one image."""
    pixels = torch.randint(0, 256, (ROWS, 128, 128, 3), dtype=torch.uint8)
    images = backbone.normalise(pixels)
    prompts = torch.randn(ROWS, 16, backbone.embed_dim)

    def run(rows: slice, count: int) -> Tensor:
        return backbone(images[rows], prompts[rows, :count])

    half, other, few, rest = slice(8), slice(8, ROWS), slice(1), slice(1, ROWS)
    passes = {
        "16 rows of K = 8": lambda: run(slice(ROWS), 8),
        "8 + 8 rows of K = 8": lambda: (run(half, 8), run(other, 8)),
        "16 rows padded to K = 16": lambda: run(slice(ROWS), 16),
        "8 of K = 8 + 8 of K = 16": lambda: (run(half, 8), run(other, 16)),
        "15 of K = 8 + 1 of K = 16": lambda: (run(rest, 8), run(few, 16)),
    }
    one, eight = pixels[:1], prompts[:8, :8]

    def embedded_once() -> Tensor:
        tokens = backbone.embed(backbone.normalise(one)).expand(8, -1, -1)
        return backbone.encode(torch.cat([tokens, eight], dim=1))

    targets = {
        "embedded for each data set": lambda: backbone(backbone.normalise(one.repeat(8, 1, 1, 1)), eight),
        "embedded once": embedded_once,
    }
    return compare(passes), compare(targets)


@torch.inference_mode()
def main() -> None:
    """Print the tables."""
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {ROWS} rows, {ROUNDS} rounds")
    print("width bundles   loop ms   " + "   ".join(f"{name:>12}" for name in WAYS))
    for width in WIDTHS:
        for count in BUNDLES:
            times = measure_generators(width, count)
            ratios = "   ".join(f"{times[name] / times['loop']:12.2f}" for name in WAYS)
            print(f"{width:5} {count:7} {1000 * times['loop']:9.1f}   {ratios}")
    for times in measure_vit(load_backbone(BACKBONE)):
        print(f"\n{'':27} {'ms':>7} {'ratio':>6}")
        first = next(iter(times.values()))
        for name, seconds in times.items():
            print(f"{name:27} {1000 * seconds:7.1f} {seconds / first:6.2f}")


if __name__ == "__main__":
    main()
