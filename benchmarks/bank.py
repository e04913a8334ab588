"""A bank of hundreds of bundles: what it costs in memory, in throughput, and a bundle's first request.

    python benchmarks/bank.py [--bundles 500] [--seconds 5] [--rounds 5]

Makes bundles with random weights and the shapes of the shipped ones in a temporary model store beside the embedded
backbone, starts the real `pgn serve` on it, and measures

- memory: summed PSS of all processes with N bundles, less that with one, over the size of the N - 1 files, each service
  after the same traffic;
- the first request to each bundle less the second, and the second less the third as the measure of chance, asked one
  after the other by one client;
- throughput with uniform traffic over 1, 32, 33, 128 and N bundles, 32 clients, in one run: in each round every number
  has its turn, in changing order. The ratio to one bundle is taken within each round; the median over rounds counts.
  On a machine that does other things too, the processor time of a request says more: it is measured with it.

Weights are random because none of this depends on them.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import io
import json
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import aiohttp
import numpy as np
import psutil
import torch
from PIL import Image

from pgn.bundle import BackboneRef, GeneratorSpec, HeadSpec, Manifest, write_bundle
from pgn.index import Entry, Index, Version, change_index
from pgn.method.generator import build_generator
from pgn.serve.ports import free_port
from pgn.store.local import LocalStore

ROOT = Path(__file__).resolve().parents[1]
CLIENTS = 32
BUNDLES = (1, 32, 33, 128)
WAIT_S = 300.0
CLASSES = 10
SPEC = GeneratorSpec(encoder="resnet10", num_prompts=8, library_size=64, embed_dim=256, input_size=64, antialias=True)


def make_bundle(folder: Path, dataset: str, backbone: str, *, seed: int) -> Path:
    """A bundle with random weights and the shapes of the shipped ones."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        generator = build_generator(SPEC)
        head = torch.randn(CLASSES, SPEC.embed_dim)
    state = {name: value.numpy() for name, value in generator.state_dict().items() if "num_batches" not in name}
    manifest = Manifest(
        dataset=dataset,
        classes=tuple(f"class {number}" for number in range(CLASSES)),
        method="pgn",
        generator=SPEC,
        head=HeadSpec(kind="linear", features=SPEC.embed_dim),
        backbone=BackboneRef(name="pgn-vit-128", digest=backbone),
        created="2026-01-01T00:00:00Z",
    )
    tensors = {
        **{f"generator.{name}": array for name, array in state.items()},
        "head.weight": head.numpy(),
        "head.bias": np.zeros(CLASSES, np.float32),
        "profile.mixture": np.full(SPEC.library_size, 1 / SPEC.library_size, np.float32),
    }
    return write_bundle(folder, manifest, tensors)


def make_store(root: Path, bundles: int) -> LocalStore:
    """A model store with the embedded backbone that serves so many data sets."""
    shutil.copytree(ROOT / "model_store" / "backbones", root / "backbones")
    store = LocalStore(root)
    ((_, backbone),) = store.backbones().values()
    datasets = {}
    for number in range(bundles):
        name = f"set-{number:03d}"
        path = make_bundle(root / "datasets" / name, name, backbone, seed=number)
        datasets[name] = Entry(versions=(Version(digest=hashlib.sha256(path.read_bytes()).hexdigest()),))
    serve_only(store, Index(revision=0, backbone=backbone, datasets=datasets))
    return store


def serve_only(store: LocalStore, index: Index) -> None:
    """Let the store serve what `index` says, under the next revision."""
    empty = Index(revision=0, backbone=index.backbone)
    change_index(store.root, lambda old: index.model_copy(update={"revision": old.revision + 1}), new=empty)


@contextmanager
def served(store: LocalStore, folder: Path) -> Iterator[tuple[str, psutil.Process]]:
    """`pgn serve` on free ports; its address and process, once it is ready."""
    config = folder / "config.properties"
    config.write_text(_free_ports((ROOT / "config.properties").read_text()))
    port = free_port("127.0.0.1")
    command = [sys.executable, "-m", "pgn", "serve", "--store", store.root, "--port", str(port)]
    environment = {**os.environ, "PGN_TORCHSERVE_CONFIG": str(config)}
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL) as process:
        try:
            url = f"http://127.0.0.1:{port}"
            wait_ready(url, process)
            yield url, psutil.Process(process.pid)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)


def _free_ports(text: str) -> str:
    lines = []
    for line in text.splitlines():
        name, _, value = line.partition("=")
        if name.endswith("_port"):
            line = f"{name}={free_port('127.0.0.1')}"
        elif value.startswith("http://"):
            line = f"{name}=http://127.0.0.1:{free_port('127.0.0.1')}"
        lines.append(line)
    return "\n".join(lines) + "\n"


def wait_ready(url: str, process: subprocess.Popen[bytes]) -> None:
    """Return when the service is ready with all of its data sets."""
    end = time.monotonic() + WAIT_S
    while time.monotonic() < end and process.poll() is None:
        try:
            with urllib.request.urlopen(f"{url}/readyz", timeout=5) as answer:
                if answer.status == 200:
                    return
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)
    raise SystemExit("pgn serve was not ready in time")


def by_kind(parent: psutil.Process, measure: Callable[[psutil.Process], float]) -> Counter[str]:
    """The sum of what is measured of each process of the service, by the processes' kind."""
    kinds = {"ModelServer": "Java", "pgn.gateway": "gateway", "pgn_stage": "stage pgn", "vit_stage": "stage vit"}
    found: Counter[str] = Counter()
    for process in [parent, *parent.children(recursive=True)]:
        command = " ".join(process.cmdline())
        if "model_service_worker" in command:
            command = kind_of_stage(process)
        found[next((name for word, name in kinds.items() if word in command), "parent")] += measure(process)
    return found


def kind_of_stage(worker: psutil.Process) -> str:
    """The handler that a worker of TorchServe runs: its working folder is the archive that holds it."""
    return " ".join(path.name for path in Path(worker.cwd()).iterdir())


def pss(process: psutil.Process) -> float:
    """Bytes of memory, shared pages divided among those that share them."""
    return float(process.memory_full_info().pss)


def cpu_seconds(process: psutil.Process) -> float:
    """Processor time so far."""
    times = process.cpu_times()
    return float(times.user + times.system)


def an_image() -> bytes:
    """A PNG as a client would send it."""
    pixels = np.random.default_rng(0).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).resize((128, 128), Image.Resampling.BICUBIC).save(buffer, "PNG")
    return buffer.getvalue()


async def ask(session: aiohttp.ClientSession, url: str, dataset: str, image: bytes) -> float:
    """Ask once; returns the seconds it took."""
    start = time.perf_counter()
    async with session.post(f"{url}/v1/datasets/{dataset}/predict", data=image) as response:
        answer = json.loads(await response.read())
        if response.status != 200 or answer["results"][0]["dataset"] != dataset:
            raise SystemExit(f"{response.status} {answer}")
    return time.perf_counter() - start


async def first_requests(url: str, datasets: Sequence[str]) -> list[tuple[float, float, float]]:
    """Seconds of the first three requests to each data set but the first, which warms the service; one client."""
    image = an_image()
    async with aiohttp.ClientSession() as session:
        for _ in range(20):
            await ask(session, url, datasets[0], image)

        async def three(name: str) -> tuple[float, float, float]:
            first, second, third = [await ask(session, url, name, image) for _ in range(3)]
            return first, second, third

        return [await three(name) for name in datasets[1:]]


async def throughput(url: str, datasets: Sequence[str], seconds: float, seed: int) -> float:
    """Requests a second of all clients, each of which asks for one of the data sets after the other, by chance."""
    image, done, end = an_image(), 0, time.perf_counter() + seconds
    chance = random.Random(seed)

    async def client(session: aiohttp.ClientSession) -> None:
        nonlocal done
        while time.perf_counter() < end:
            await ask(session, url, chance.choice(datasets), image)
            done += 1

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=CLIENTS)) as session:
        start = time.perf_counter()
        await asyncio.gather(*(client(session) for _ in range(CLIENTS)))
        return done / (time.perf_counter() - start)


def turns(counts: Sequence[int], rounds: int) -> Iterator[tuple[int, int]]:
    """Round and number of bundles, the numbers in another order in every round."""
    for number in range(rounds):
        shift = number % len(counts)
        yield from ((number, count) for count in [*counts[shift:], *counts[:shift]])


def measure_throughput(
    url: str, service: psutil.Process, datasets: Sequence[str], counts: Sequence[int], options: argparse.Namespace
) -> None:
    """Print requests a second and processor time a request by number of bundles, with ratios to one bundle."""
    rates: dict[int, list[float]] = {count: [] for count in counts}
    costs: dict[int, list[Counter[str]]] = {count: [] for count in counts}
    for number, count in turns(counts, options.rounds):
        before, start = by_kind(service, cpu_seconds), time.perf_counter()
        rate = asyncio.run(throughput(url, datasets[:count], options.seconds, number))
        requests = rate * (time.perf_counter() - start)
        spent = by_kind(service, cpu_seconds)
        rates[count].append(rate)
        costs[count].append(Counter({kind: 1000 * (spent[kind] - before[kind]) / requests for kind in spent}))
    for count in counts:
        by_rate = [rate / one for rate, one in zip(rates[count], rates[counts[0]], strict=True)]
        by_cost = [cost.total() / one.total() for cost, one in zip(costs[count], costs[counts[0]], strict=True)]
        parts = ", ".join(
            f"{kind} {statistics.median(cost[kind] for cost in costs[count]):.1f}" for kind in sorted(costs[count][0])
        )
        print(
            f"{count:4} bundles: {statistics.median(rates[count]):6.1f} requests/s, {statistics.median(by_rate):.3f} "
            f"of one ({min(by_rate):.2f} to {max(by_rate):.2f}); "
            f"{statistics.median(cost.total() for cost in costs[count]):.1f} ms of processor a request, "
            f"{statistics.median(by_cost):.3f} of one ({parts})"
        )


def tell_memory(one: Counter[str], many: Counter[str], files: int) -> None:
    """Print how much more memory the large bank takes, over the size of its files."""
    growth = many.total() - one.total()
    parts = ", ".join(f"{kind} {(many[kind] - one[kind]) / files:+.3f}" for kind in sorted(many))
    print(
        f"memory: {one.total() / 2**20:.0f} MiB with one bundle, {many.total() / 2**20:.0f} MiB with all; "
        f"their files are {files / 2**20:.0f} MiB: {growth / files:.3f} bytes a byte ({parts})"
    )


def tell_difference(name: str, seconds: Sequence[float]) -> None:
    """Print how differences are spread, in milliseconds."""
    each = sorted(1000 * value for value in seconds)
    print(
        f"{name}: median {statistics.median(each):+.1f} ms, mean {statistics.mean(each):+.1f} ms, "
        f"95 of 100 under {each[int(0.95 * (len(each) - 1))]:.1f} ms"
    )


def main() -> None:
    """Make the store, serve it twice, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundles", type=int, default=500)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="pgn-bank-") as folder:
        store = make_store(Path(folder) / "store", options.bundles)
        index = store.index()
        names = list(index.datasets)
        files = sum(path.stat().st_size for name in names[1:] for path in (store.root / "datasets" / name).iterdir())
        serve_only(store, index.model_copy(update={"datasets": {names[0]: index.datasets[names[0]]}}))
        counts = [*(count for count in BUNDLES if count < len(names)), len(names)]
        with served(store, Path(folder)) as (url, service):
            for number, _ in turns(counts, options.rounds):  # the same traffic as below
                asyncio.run(throughput(url, names[:1], options.seconds, number))
            one = by_kind(service, pss)
        serve_only(store, index)
        with served(store, Path(folder)) as (url, service):
            measure_throughput(url, service, names, counts, options)
            tell_memory(one, by_kind(service, pss), files)
        with served(store, Path(folder)) as (url, _):
            times = asyncio.run(first_requests(url, names))
            tell_difference("first request less the second", [first - second for first, second, _ in times])
            tell_difference("second request less the third", [second - third for _, second, third in times])


if __name__ == "__main__":
    main()
