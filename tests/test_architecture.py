"""The house: who may stand on whom. Import rules are drawn in pyproject.toml; here a fresh interpreter is asked.

method, stages      may load torch
gateway, client     doors: no torch, so that they start in a blink and fit in a small image
store
message, bundle, index, backbone_spec, images, settings      contracts: no torch, no web framework
errors              imports nothing
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CONTRACTS = ("errors", "images", "bundle", "index", "backbone_spec", "message", "settings", "store.local")
DOORS = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for room in ("gateway", "client")
    for path in (ROOT / "pgn" / room).glob("*.py")
    if path.stem != "__init__"
)

LIST_MODULES = """
import importlib, json, sys
for name in sys.argv[1:]:
    importlib.import_module(name)
print(json.dumps([*sys.modules]))
"""


def loaded_by(*modules: str) -> set[str]:
    """Names of all modules in a fresh interpreter that has imported these."""
    run = subprocess.run([sys.executable, "-c", LIST_MODULES, *modules], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return set(json.loads(run.stdout))


def test_pgn_itself_loads_nothing_heavy():
    """`pgn --help` has to answer at once, and every room imports this one."""
    assert not loaded_by("pgn") & {"torch", "fastapi", "numpy", "pydantic"}


def test_contracts_load_neither_torch_nor_a_web_framework():
    """What gateway, stages and trainer share is light enough for each of them."""
    heavy = {"torch", "torchvision", "timm", "open_clip", "fastapi", "uvicorn", "httpx", "aiohttp"}
    assert not loaded_by(*(f"pgn.{name}" for name in CONTRACTS)) & heavy


def test_errors_import_nothing_of_the_package():
    """Every other file may import them, so they may import none."""
    assert {name for name in loaded_by("pgn.errors") if name.startswith("pgn")} == {"pgn", "pgn.errors"}


@pytest.mark.skipif(not DOORS, reason="no door has been built yet")
def test_doors_load_no_torch():
    """Gateway and client decode images and pass messages; the models live behind them."""
    assert not loaded_by(*DOORS) & {"torch", "torchvision", "timm", "open_clip"}


def test_the_method_loads_no_server():
    """Whoever only trains or studies the method needs no web framework."""
    rooms = ("encoders", "library", "generator", "backbone", "head", "predictor", "reference")
    assert not loaded_by(*(f"pgn.method.{room}" for room in rooms)) & {"fastapi", "aiohttp", "ts", "pgn.gateway"}
