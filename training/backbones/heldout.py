"""Labelled image sets in tar files, and the two ways features are scored on them.

A tar holds `<split>/<class>/<file>.jpg` with the splits train, val and test.
"""

import io
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch import Tensor
from torch.nn.functional import normalize, one_hot

PROBE_STRENGTHS = (0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)

Encoder = Callable[[Tensor], Tensor]
"""Takes (B, 3, H, W) float32 in 0..1, gives (B, F) features."""


@dataclass(frozen=True)
class Split:
    """One split of a set: images (N, 3, H, W) uint8 and labels (N,) int64, counted over the sorted class names."""

    images: Tensor
    labels: Tensor


def square(image: Image.Image, side_px: int) -> Image.Image:
    """Bring the shorter side to `side_px` (bicubic) and cut out the centre."""
    scale = side_px / min(image.size)
    width, height = (max(side_px, round(length * scale)) for length in image.size)
    left, top = (width - side_px) // 2, (height - side_px) // 2
    sized = image.convert("RGB").resize((width, height), Image.Resampling.BICUBIC)
    return sized.crop((left, top, left + side_px, top + side_px))


def read_splits(tar: Path, splits: Sequence[str], side_px: int) -> dict[str, Split]:
    """Read the named splits of a tar, each image squared to `side_px`.

    Raises:
        ValueError: a split is not in the tar.
    """
    rows: dict[str, list[tuple[str, np.ndarray]]] = {split: [] for split in splits}
    with tarfile.open(tar) as archive:
        for member in archive:
            split, _, rest = member.name.partition("/")
            file = archive.extractfile(member)
            if split in rows and file is not None:
                with Image.open(io.BytesIO(file.read())) as image:
                    rows[split].append((rest.split("/")[0], np.asarray(square(image, side_px))))
    if empty := [split for split, found in rows.items() if not found]:
        raise ValueError(f"{tar} has no images of {', '.join(empty)}; expected <split>/<class>/<file>")
    names = sorted({name for found in rows.values() for name, _ in found})
    return {
        split: Split(
            torch.from_numpy(np.stack([pixels for _, pixels in found])).permute(0, 3, 1, 2),
            torch.tensor([names.index(name) for name, _ in found]),
        )
        for split, found in rows.items()
    }


@torch.inference_mode()
def features_of(encoder: Encoder, images: Tensor, batch: int = 50) -> Tensor:
    """Return (N, F) float32 features of uint8 images, made batch by batch."""
    return torch.cat([encoder(part / 255).float() for part in torch.split(images, batch)])


def knn_accuracy(gallery: Tensor, gallery_labels: Tensor, queries: Tensor, labels: Tensor, k: int = 10) -> float:
    """Return the share (0..1) of queries whose k nearest gallery rows, by cosine, vote for their label.

    A tie goes to the class whose voters are nearer in sum.
    """
    nearness, nearest = (normalize(queries, dim=1) @ normalize(gallery, dim=1).T).topk(k, dim=1)
    votes = one_hot(gallery_labels[nearest]).float()  # (Q, k, C)
    score = votes.sum(1) + 1e-3 * (votes * nearness[..., None]).sum(1)
    return float((score.argmax(1) == labels).float().mean())


def probe_accuracy(features: dict[str, Tensor], labels: dict[str, Tensor]) -> tuple[float, float]:
    """Fit logistic regression on the train split; return its test accuracy (0..1) and the strength C it used.

    Features are standardised by the train split; C is the one of `PROBE_STRENGTHS` with the best val accuracy, the
    smallest among equals.

    Args:
        features: (N, F) rows of the splits train, val and test.
        labels: (N,) of the same splits.
    """
    scaler = StandardScaler().fit(features["train"].numpy())
    rows = {split: scaler.transform(part.numpy()) for split, part in features.items()}
    best: tuple[float, float, float] = (-1.0, 0.0, 0.0)  # val accuracy, -C, test accuracy
    for strength in PROBE_STRENGTHS:
        probe = LogisticRegression(C=strength, max_iter=2000).fit(rows["train"], labels["train"].numpy())
        val, test = (float(probe.score(rows[split], labels[split].numpy())) for split in ("val", "test"))
        best = max(best, (val, -strength, test))
    return best[2], -best[1]
