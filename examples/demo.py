"""The whole line in one run: train a PGN, pack it, serve it beside the shipped ones, predict real images over REST.

    make demo        or        .venv/bin/python examples/demo.py

Every step prints the command that does it. Everything it makes lies in runs/demo; the shipped model store is copied,
not changed. Images sent are held-out test images; none was trained on.
"""

from __future__ import annotations

import io
import json
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

import torch
from PIL import Image

from pgn.client import Client
from pgn.errors import PgnError
from pgn.images import read_square
from pgn.index import read_index
from pgn.method.backbone import FrozenBackbone, load_backbone
from pgn.method.predictor import Predictor
from pgn.store.local import LocalStore
from training.data.dataset import Dataset
from training.data.registry import open_dataset

WORK = Path("runs/demo")
STORE = WORK / "model_store"
LIVE = "digits-live"
IMAGES = 300  # sent per data set
CLIENTS = 4
PGN = Path(sys.executable).with_name("pgn")


@dataclass(frozen=True)
class Sample:
    """Encoded held-out images and the names of what is in them."""

    images: list[bytes]
    labels: list[str]


@dataclass(frozen=True)
class Score:
    """How one data set's bundle did, over REST and in this process."""

    dataset: str
    images: int
    rest: float
    in_process: float
    largest_difference: float
    p50_ms: float


def main() -> int:
    """Run the demo; 0 if REST and in-process answers agree."""
    shutil.rmtree(WORK, ignore_errors=True)
    shutil.copytree("model_store", STORE, ignore=shutil.ignore_patterns("archives"))
    run("train", "--dataset", "digits", "--epochs", "5", "--keep", "0.5", "--name", LIVE, "--out", WORK / LIVE)
    (bundle,) = (WORK / LIVE).glob("*.safetensors")
    run("add", bundle, "--store", STORE)
    run("archive", "--out", WORK / "archives")
    samples = held_out_samples()
    with serving() as url, Client(url) as client:
        scores = [measure(client, dataset, sample) for dataset, sample in samples.items()]
        print_table(scores)
        print_examples(client, samples)
        image = WORK / "example.png"
        image.write_bytes(samples["digits"].images[0])
        print(f"\ncurves of the training: {WORK / LIVE / 'curves.png'}")
        print("while `pgn serve` runs, ask it yourself:")
        print(f"  curl --data-binary @{image} {url}/v1/datasets/digits/predict")
    agree = all(score.largest_difference <= 1e-5 for score in scores)
    print(f"\nREST and in-process probabilities agree to 1e-5: {'yes' if agree else 'NO'}; everything is stopped.")
    return 0 if agree else 1


def run(*arguments: object) -> None:
    """Print and run one `pgn` command; a failure ends the demo with the command's own words."""
    print(f"\n$ pgn {' '.join(map(str, arguments))}", flush=True)
    code = subprocess.run([PGN, *map(str, arguments)], check=False).returncode
    if code:
        sys.exit(code)


def held_out_samples() -> dict[str, Sample]:
    """For each served data set, test images it has never seen; the union gets both kinds, mixed."""
    digits = sample(open_dataset("digits", Path("data")))
    samples = {LIVE: digits, "digits": digits}
    try:
        clothes = sample(open_dataset("fashion-mnist", Path("data")))
    except PgnError as error:
        print(f"\nno Fashion-MNIST, so its rows are left out: {error}", file=sys.stderr)
        return samples
    mixed = [pair for both in zip(pairs(digits), pairs(clothes), strict=False) for pair in both][:IMAGES]
    union = Sample([image for image, _ in mixed], [label for _, label in mixed])
    return {**samples, "fashion-mnist": clothes, "digits-fashion": union}


def sample(dataset: Dataset) -> Sample:
    """IMAGES test images spread evenly over the test split, as PNG files."""
    step = max(1, len(dataset.test) // IMAGES)
    chosen = dataset.test[::step][:IMAGES]
    return Sample([png(each.read()) for each in chosen], [dataset.classes[each.label] for each in chosen])


def pairs(sample: Sample) -> list[tuple[bytes, str]]:
    """Images with their labels."""
    return list(zip(sample.images, sample.labels, strict=True))


def png(image: Image.Image) -> bytes:
    """The image as a PNG file."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


@contextmanager
def serving() -> Iterator[str]:
    """`pgn serve` over the demo's model store; its URL, and at the end a clean stop."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = ["serve", "--store", str(STORE), "--archives", str(WORK / "archives"), "--port", str(port)]
    print(f"\n$ pgn {' '.join(command)}", flush=True)
    process = subprocess.Popen([PGN, *command], stdout=subprocess.PIPE, text=True)
    try:
        line = process.stdout.readline() if process.stdout else ""
        if not line:
            sys.exit(process.wait())
        print(line, end="", flush=True)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


def measure(client: Client, dataset: str, sample: Sample) -> Score:
    """Send the sample through REST and through the same bundle in this process."""
    predictor = load_predictor(dataset)
    classes = predictor.manifest.classes

    def ask(image: bytes) -> tuple[float, dict[str, float]]:
        started = time.perf_counter()
        result = client.predict(image, dataset, top_k=len(classes))
        return time.perf_counter() - started, {each.label: each.probability for each in result.predictions}

    with ThreadPoolExecutor(CLIENTS) as clients:
        seconds, answers = zip(*clients.map(ask, sample.images), strict=True)
    rest = torch.tensor([[answer[name] for name in classes] for answer in answers])
    here = in_process(predictor, sample.images)
    truth = torch.tensor([classes.index(label) for label in sample.labels])
    return Score(
        dataset=dataset,
        images=len(truth),
        rest=accuracy(rest, truth),
        in_process=accuracy(here, truth),
        largest_difference=float((rest - here).abs().max()),
        p50_ms=1000 * statistics.median(seconds),
    )


def load_predictor(dataset: str) -> Predictor:
    """The served bundle of a data set, in this process."""
    store, index = LocalStore(STORE), read_index(STORE)
    digest = index.datasets[dataset].versions[0].digest
    return Predictor(backbone(), store.read(dataset, digest, backbone=index.backbone))


@cache
def backbone() -> FrozenBackbone:
    """The store's frozen ViT."""
    return load_backbone(LocalStore(STORE).backbone_folder(read_index(STORE).backbone))


def in_process(predictor: Predictor, images: Sequence[bytes]) -> torch.Tensor:
    """(M, C) probabilities of encoded images."""
    size, how = predictor.backbone.spec.preprocess.size, predictor.backbone.spec.preprocess.interpolation
    pixels = torch.stack([torch.tensor(read_square(image, size, interpolation=how)) for image in images])
    return torch.cat([predictor.probabilities(batch) for batch in pixels.split(64)])


def accuracy(probabilities: torch.Tensor, truth: torch.Tensor) -> float:
    """Share of images whose most probable class is the true one."""
    return float((probabilities.argmax(dim=1) == truth).float().mean())


def print_table(scores: Sequence[Score]) -> None:
    """One row a data set."""
    print(f"\n{'data set':<16}{'images':>7}{'REST':>9}{'in process':>12}{'largest diff.':>15}{'p50':>10}")
    for score in scores:
        print(
            f"{score.dataset:<16}{score.images:>7}{score.rest:>9.1%}{score.in_process:>12.1%}"
            f"{score.largest_difference:>15.1e}{score.p50_ms:>7.0f} ms"
        )
    (WORK / "scores.json").write_text(json.dumps([asdict(score) for score in scores], indent=2) + "\n")


def print_examples(client: Client, samples: dict[str, Sample]) -> None:
    """What the service says of one image of each data set."""
    print("\nsingle images:")
    for dataset, sample in samples.items():
        result = client.predict(sample.images[1], dataset, top_k=3)
        said = ", ".join(f"{each.label} {each.probability:.1%}" for each in result.predictions)
        print(f"  {dataset:<16} is {sample.labels[1]!r}, answered {said}")


if __name__ == "__main__":
    try:
        sys.exit(main())
    except PgnError as error:
        sys.exit(f"demo: {error}")
