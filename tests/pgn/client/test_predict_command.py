"""`pgn predict` against a running service."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from pgn.client import Client
from tests.pgn.test_cli import run
from tests.toys import png


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    """A white and a black picture; the black one shows nothing that the data sets know."""
    paths = [tmp_path / "white.png", tmp_path / "black.png"]
    for path, level in zip(paths, (255, 0), strict=True):
        path.write_bytes(png(Image.new("L", (40, 40), level)))
    return paths


def test_every_image_and_data_set_has_its_line(
    capsys: pytest.CaptureFixture[str], client: Client, images: list[Path]
) -> None:
    """What is unknown says so before it names a guess."""
    code, out, _ = run(capsys, "predict", *images, "--dataset", "birds,digits", "--url", client.url, "--top-k", "1")
    assert code == 0
    assert [line.partition("  ")[2] for line in out.splitlines()] == [
        "birds: class 0 100.0%",
        "digits: class 0 100.0%",
        "birds: unknown, perhaps class 0 0.0%",
        "digits: unknown, perhaps class 0 0.0%",
    ]


def test_as_json_it_is_one_object_a_line(
    capsys: pytest.CaptureFixture[str], client: Client, images: list[Path]
) -> None:
    """For scripts; `unknown` is a field."""
    _, out, _ = run(capsys, "predict", *images, "--dataset", "birds", "--url", client.url, "--json")
    lines = [json.loads(line) for line in out.splitlines()]
    assert [(line["image"], line["unknown"]) for line in lines] == [(str(images[0]), False), (str(images[1]), True)]
    assert lines[0]["predictions"][0] == {"label": "class 0", "probability": 1.0}


def test_an_image_that_is_refused_is_named(
    capsys: pytest.CaptureFixture[str], client: Client, images: list[Path]
) -> None:
    """What stands before it is printed; the error is one line."""
    bad = images[0].with_name("bad.png")
    bad.write_bytes(b"text")
    code, out, err = run(capsys, "predict", *images, bad, "--dataset", "birds", "--url", client.url)
    assert (code, out.count("\n"), err.count("\n")) == (1, 2, 1)
    assert "bad.png" in err
