"""Small, real stand-ins: a model store with a seeded random backbone and bundles, and images to send to it.

Everything is what production reads, only tiny: a 32 px open_clip tower (patch 8, width 32, two layers) in a backbone
folder, bundles with an untrained generator and head, an index.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image

from pgn.backbone_spec import BackboneSpec, Preprocess
from pgn.bundle import BackboneRef, GeneratorSpec, HeadSpec, Manifest, write_bundle
from pgn.method.backbone import build_vit, save_backbone
from pgn.method.generator import build_generator
from pgn.method.pixels import Normalise
from pgn.method.projection import PatchProjection
from pgn.store.local import LocalStore
from training.data.reading import ImageArray

TOY_ARCHITECTURE = {
    "image_size": 32,
    "patch_size": 8,
    "width": 32,
    "layers": 2,
    "heads": 2,
    "mlp_ratio": 4.0,
    "output_dim": 16,
}

TOY_PREPROCESS = Preprocess(size=32, interpolation="bicubic", mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
ANY_PROJECTION = PatchProjection(torch.zeros(32, 3, 8, 8), None, Normalise(TOY_PREPROCESS))  # never in a bundle


def make_backbone(folder: Path, *, seed: int = 0, name: str = "toy") -> str:
    """A seeded random tower as a backbone folder; returns its digest."""
    spec = BackboneSpec(
        name=name,
        library="open_clip",
        architecture=TOY_ARCHITECTURE,
        activation="quick_gelu",
        preprocess=TOY_PREPROCESS,
        weights_sha256="0" * 64,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return save_backbone(folder, build_vit(spec), spec)


def make_bundle(
    folder: Path,
    dataset: str,
    backbone: str,
    *,
    seed: int = 0,
    num_classes: int = 3,
    num_prompts: int = 4,
    library: Literal["latent", "rgb"] = "latent",
) -> Path:
    """A bundle with a random generator and a linear head whose answers differ between images."""
    generator_spec = GeneratorSpec(
        encoder="resnet10",
        encoder_width=4,
        num_prompts=num_prompts,
        library_size=6,
        embed_dim=32,
        library=library,
        patch_size=8 if library == "rgb" else None,
        input_size=32,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        generator = build_generator(generator_spec, ANY_PROJECTION)
        for parameter in generator.parameters():  # large enough that prompts matter
            parameter.data *= 3
        head = torch.randn(num_classes, 16)
    weights = {k: v.numpy() for k, v in generator.state_dict().items() if not k.endswith("num_batches_tracked")}
    manifest = Manifest(
        dataset=dataset,
        classes=tuple(f"{dataset}-{i}" for i in range(num_classes)),
        method="pgn",
        generator=generator_spec,
        head=HeadSpec(kind="linear", features=16),
        backbone=BackboneRef(name="toy", digest=backbone),
        temperature=1.5,
        created="2026-01-01T00:00:00Z",
    )
    tensors = {
        **{f"generator.{name}": array for name, array in weights.items()},
        "head.weight": head.numpy(),
        "head.bias": np.zeros(num_classes, np.float32),
        "profile.mixture": np.full(6, 1 / 6, np.float32),
    }
    return write_bundle(folder, manifest, tensors)


def make_store(root: Path, datasets: Sequence[str], *, seed: int = 0) -> LocalStore:
    """A model store that serves `datasets`, each with its own random bundle."""
    backbone = make_backbone(root / "backbones" / "toy", seed=seed)
    store = LocalStore(root)
    for number, dataset in enumerate(datasets):
        path = make_bundle(root / "made", dataset, backbone, seed=seed + number, num_classes=3 + number % 3)
        store.publish(path)
    return store


def picture(number: int = 0) -> ImageArray:
    """One of 65,536 different pictures of two grey pixels, as a data set keeps it."""
    return ImageArray(np.array([divmod(number, 256)], np.uint8))


def make_images(count: int, size: int = 40, *, seed: int = 0) -> list[bytes]:
    """PNG files of coloured noise, smooth enough that neighbours differ in more than noise."""
    generator = np.random.default_rng(seed)
    coarse = generator.integers(0, 256, (count, 5, 5, 3), dtype=np.uint8)
    return [png(Image.fromarray(array).resize((size, size), Image.Resampling.BICUBIC)) for array in coarse]


def write_images(folder: Path, count: int, *, seed: int) -> None:
    """`make_images` as 0.png, 1.png and so on in a new folder."""
    folder.mkdir(parents=True)
    for number, data in enumerate(make_images(count, seed=seed)):
        (folder / f"{number}.png").write_bytes(data)


def png(image: Image.Image) -> bytes:
    """The image as PNG bytes."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()
