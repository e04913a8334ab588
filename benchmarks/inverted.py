"""Prompted images over REST: does the frozen ViT alone answer a PNG as the full PGN answers the image?

    pgn serve &
    python benchmarks/inverted.py digits-rgb fashion-mnist-rgb [--limit 1000] [--out docs/results/inversion-rest.md]

For each served data set, the images of its test split are sent twice: as they are to `/v1/datasets/{name}/predict`,
and as prompted PNG files, made in this process from the bundle in the model store, to `/v1/backbone/predict`.
"""

from __future__ import annotations

import argparse
import io
import shlex
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from pgn.bundle import write_atomically
from pgn.client import Client
from pgn.errors import PgnError
from pgn.method.backbone import load_backbone
from pgn.method.inversion import Inversion
from pgn.method.predictor import Predictor
from pgn.settings import Settings
from pgn.store.local import LocalStore
from training.config import TrainConfig
from training.data.images import load_split
from training.data.registry import open_datasets

CLIENTS = 4
ROWS = 32  # images that become prompted ones together


@dataclass(frozen=True)
class Compared:
    """What came of one data set's test images; top-1 in 0..1."""

    dataset: str
    images: int
    full: float
    prompted: float
    same: float
    difference: float


def main() -> None:
    """Ask, print, and write where asked."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("datasets", nargs="+", help="served data sets whose prompts are invertible")
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--limit", type=int, help="at most so many images, evenly spaced over the split")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    try:
        with Client(given.url) as client:
            text = table([compare(client, name, given.limit) for name in given.datasets])
    except PgnError as error:
        sys.exit(f"pgn: {error}")
    print(text, end="")
    if given.out:
        command = shlex.join(["python", "benchmarks/inverted.py", *sys.argv[1:]])
        write_atomically(given.out, f"{(__doc__ or '').splitlines()[0]}\n\n    {command}\n\n{text}".encode())


def compare(client: Client, dataset: str, limit: int | None) -> Compared:
    """Ask both ways about the test images of a data set that the service and the local store hold."""
    store = LocalStore(Settings().store)
    index = store.index()
    bundle = store.read(dataset, index.datasets[dataset].versions[0].digest, backbone=index.backbone)
    predictor = Predictor(load_backbone(store.backbone_folder(index.backbone)), bundle)
    config = TrainConfig.model_validate(bundle.manifest.training["config"])
    images = load_split(open_datasets(config.dataset, config.data_dir), "test", predictor.backbone.spec.preprocess)
    chosen = torch.linspace(0, len(images) - 1, min(limit or len(images), len(images))).long()
    classes = [bundle.manifest.classes[label] for label in images.labels[chosen].tolist()]

    def ask(pair: tuple[bytes, bytes]) -> tuple[str, str, float]:
        plain, prompted = pair
        full, alone = client.predict(plain, dataset)[0], client.predict_prompted(prompted, dataset)[0]
        return full.label, alone.label, abs(full.probability - alone.probability)

    answers: list[tuple[str, str, float]] = []
    with ThreadPoolExecutor(CLIENTS) as pool:
        for part in chosen.split(ROWS):
            answers += pool.map(ask, _pairs(Inversion(predictor.backbone, predictor.generator), images.pixels(part)))
    return Compared(
        dataset,
        images=len(answers),
        full=float(np.mean([full == truth for (full, _, _), truth in zip(answers, classes, strict=True)])),
        prompted=float(np.mean([alone == truth for (_, alone, _), truth in zip(answers, classes, strict=True)])),
        same=float(np.mean([full == alone for full, alone, _ in answers])),
        difference=max(difference for _, _, difference in answers),
    )


@torch.inference_mode()
def _pairs(inversion: Inversion, squares: torch.Tensor) -> Iterator[tuple[bytes, bytes]]:
    """Each of the (B, S, S, 3) images as a PNG file, without and with its prompts below."""
    talls = inversion(squares).to_8_bit()
    for square, tall in zip(squares.cpu().numpy(), talls.cpu().numpy(), strict=True):
        yield _png(square), _png(tall)


def _png(pixels: NDArray[np.uint8]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def table(found: list[Compared]) -> str:
    """One row a data set."""
    head = ["data set", "images", "PGN, top-1", "PNG, top-1", "same answer", "largest difference of a probability"]
    lines = [head, ["---", *["---:"] * (len(head) - 1)]]
    for one in found:
        shares = [f"{100 * share:.2f} %" for share in (one.full, one.prompted, one.same)]
        lines.append([one.dataset, f"{one.images:,}", *shares, f"{one.difference:.1e}"])
    return "".join("| " + " | ".join(cells) + " |\n" for cells in lines)


if __name__ == "__main__":
    main()
