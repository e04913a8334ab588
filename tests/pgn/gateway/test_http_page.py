"""docs/http.md is true: its commands and its program run as they stand there."""

from __future__ import annotations

import contextlib
import io
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from pgn.index import read_index
from tests.pgn.gateway.conftest import RunningGateway, StartGateway
from tests.toys import make_bundle, make_images, make_store

PAGE = (Path(__file__).resolve().parents[3] / "docs/http.md").read_text()
URL = "http://127.0.0.1:8000"


def blocks(language: str) -> list[str]:
    found: list[str] = re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)
    assert found
    return found


@pytest.fixture
def gateway(start_gateway: StartGateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunningGateway:
    """Serves the data sets of the page, in a folder with its files."""
    store = make_store(tmp_path / "store", ["digits", "fashion-mnist"])
    bundle = make_bundle(tmp_path / "made", "digits", read_index(store.root).backbone, seed=50)
    bundle.rename(tmp_path / "digits.bundle")
    (tmp_path / "digits.bundle.sig").write_text("{}")
    for name, image in zip(("image.png", "other.png"), make_images(2), strict=True):
        (tmp_path / name).write_bytes(image)
    monkeypatch.chdir(tmp_path)
    return start_gateway(store=store.root)


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
@pytest.mark.parametrize("block", blocks("sh"), ids=lambda block: block.split("\n")[0])
def test_the_commands_succeed_one_after_the_other(gateway: RunningGateway, block: str) -> None:
    """Whoever copies them gets an answer."""
    script = block.replace(URL, gateway.url).replace("curl ", "curl -sS --fail-with-body ")
    done = subprocess.run(["bash", "-euxc", script], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr + done.stdout


def test_the_program_prints_what_it_asked_for(gateway: RunningGateway) -> None:
    """The client's names in the page are those of the library."""
    (program,) = blocks("python")
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(program.replace(URL, gateway.url), {})
    assert "digits ready [1.0]" in printed.getvalue()
    assert printed.getvalue().count("Prediction(") == 4
