"""docs/your-images.md, run as it is written: from a folder of class folders to an answer by curl."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
COLOURS = {"cat": (200, 60, 60), "dog": (60, 200, 60), "horse": (60, 60, 200)}
PORTS = (8000, 8080, 8081, 8082, 7070, 7071)  # the page names none, so it takes the defaults


def blocks() -> list[str]:
    """The page's commands, in order: those marked to be run."""
    return re.findall(r"<!-- run -->\n```bash\n(.*?)```", (ROOT / "docs/your-images.md").read_text(), re.S)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the reader has: the shipped model store, TorchServe's settings, and a folder of their own photographs."""
    folder = tmp_path_factory.mktemp("checkout")
    shutil.copy(ROOT / "config.properties", folder)
    shutil.copytree(ROOT / "model_store", folder / "model_store", ignore=shutil.ignore_patterns("archives"))
    noise = np.random.default_rng(0)
    for name, colour in COLOURS.items():
        (folder / "my-images" / name).mkdir(parents=True)
        for number in range(1, 13):
            pixels = noise.normal(colour, 40, (96, 128, 3)).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / "my-images" / name / f"{number:03d}.jpg")
    return folder


@pytest.fixture(scope="module")
def environment() -> dict[str, str]:
    """The virtual environment, active."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {**{name: value for name, value in os.environ.items() if not name.startswith("PGN_")}, "PATH": path}


@pytest.fixture(scope="module")
def served(checkout: Path, environment: dict[str, str]) -> Iterator[str]:
    """What curl was answered after every step of the page."""
    for port in PORTS:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                pytest.skip(f"port {port}, which the page takes for granted, is in use on this machine")
    train, evaluate, serve, ask = (["bash", "-ec", block] for block in blocks())
    for command in (train, evaluate):
        subprocess.run(command, cwd=checkout, env=environment, check=True)
    with subprocess.Popen(serve, cwd=checkout, env=environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert any("listening on http://127.0.0.1:8000" in line for line in process.stdout)
            yield subprocess.run(
                ask, cwd=checkout, env=environment, check=True, stdout=subprocess.PIPE, text=True
            ).stdout
        finally:
            os.kill(_last_child(process.pid), signal.SIGTERM)


def _last_child(pid: int) -> int:
    """The `pgn serve` that the shell runs, or the shell itself where it has become `pgn serve`."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return int(children[-1]) if children and "bash" in Path(f"/proc/{pid}/comm").read_text() else pid


def test_the_page_leads_from_a_folder_to_an_answer(served: str) -> None:
    """A reader who types the page's commands gets the class of their own image."""
    (result,) = json.loads(served)["results"]
    assert result["dataset"] == "my-images"
    assert {each["label"] for each in result["predictions"]} == set(COLOURS)
    assert result["predictions"][0]["label"] == "cat"


def test_the_run_leaves_what_the_page_says(served: str, checkout: Path) -> None:
    """Bundle, settings, log and curves lie in the run's folder."""
    names = {path.name for path in (checkout / "runs" / "my-images").iterdir()}
    assert {"config.json", "log.jsonl", "curves.png", "evaluation"} <= names
    assert any(name.endswith(".safetensors") for name in names)
