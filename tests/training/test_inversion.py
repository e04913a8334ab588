"""The evidence tells the ways apart: what loses nothing shows nothing lost, and what loses prompts shows it."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from pgn.bundle import read_bundle, write_bundle
from pgn.errors import UsageError
from pgn.method.backbone import load_backbone
from tests.toys import make_bundle
from training import inversion
from training.analysis import subject
from training.config import TrainConfig
from training.inversion import (
    CLAMPED,
    FLOAT,
    FORWARD,
    JPEG,
    PLAIN,
    PNG,
    WAYS,
    Evidence,
    as_markdown,
    evidence_csv,
    measure,
)

Make = Callable[..., Path]


@pytest.fixture
def make_trained(tmp_path: Path, backbone_folder: Path) -> Make:
    """A toy bundle that says it was trained on the digits; its tokens are large, as those of a long training are."""

    def make(library: str, *, num_prompts: int = 4) -> Path:
        digest = load_backbone(backbone_folder).digest
        made = read_bundle(
            make_bundle(tmp_path, "digits", digest, num_classes=10, num_prompts=num_prompts, library=library)
        )
        config = TrainConfig(dataset=("digits",), out=tmp_path / "run", backbone=backbone_folder)
        manifest = made.manifest.model_copy(
            update={"training": {"config": config.model_dump(mode="json")}, "classes": tuple("0123456789")}
        )
        tensors = dict(made.tensors)
        if library == "latent":
            tensors["generator.library.tokens"] = 100 * tensors["generator.library.tokens"]
        return write_bundle(tmp_path / library, manifest, tensors)

    return make


def test_pixels_of_an_rgb_library_lose_nothing_but_in_jpeg(make_trained: Make) -> None:
    """The promise of the method: an 8-bit PNG is the forward pass that was trained."""
    found = measure(make_trained("rgb"), limit=20)
    assert (found.images, found.library, found.num_prompts, found.outside, found.residual) == (20, "rgb", 4, 0, 0)
    assert 0 <= found.low < found.high <= 1
    for way in (FORWARD, FLOAT, CLAMPED, PNG):
        assert found.ways[way].difference < 1e-5
        assert (found.ways[way].same, found.ways[way].top1) == (1, found.ways[FORWARD].top1)
    assert found.ways[JPEG].difference > 1e-4
    assert found.ways[PLAIN].difference > 1e-4


def test_pixels_of_latent_prompts_keep_only_in_floating_point(make_trained: Make) -> None:
    """Cutting and rounding are told apart from carrying the prompts as pixels at all."""
    found = measure(make_trained("latent"), limit=20)
    assert found.outside > 0.2
    assert found.low < 0
    assert found.high > 1
    assert (found.rank, found.width) == (32, 32)
    assert found.ways[FLOAT].difference < 1e-4
    assert found.ways[FLOAT].same == 1
    assert min(found.ways[way].difference for way in (CLAMPED, PNG, JPEG)) > 1e-3


def test_the_limit_is_spread_over_the_split(make_trained: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Splits are sorted by class as often as not; the first images would be of one class."""
    asked: list[int] = []
    plain = subject.load_split

    def watch(*given: object) -> object:
        images = plain(*given)
        pixels = images.pixels
        images.pixels = lambda indices: (asked.extend(indices.tolist()), pixels(indices))[1]
        return images

    monkeypatch.setattr(subject, "load_split", watch)
    measure(make_trained("rgb"), limit=3)
    assert asked[0] == 0
    assert asked[2] > 100
    assert asked[1] == asked[2] // 2


@pytest.fixture(scope="module")
def evidence() -> Evidence:
    """Numbers that can be told apart."""
    ways = {way: inversion.Way(top1=0.5 + 0.05 * i, same=0.9, difference=0.125 * i) for i, way in enumerate(WAYS)}
    return Evidence("digits.0.safetensors", "rgb", "test", 7, 8, 115.25, 192, 192, 0.03, 0.96, 0.0, 0.0, ways)


def test_the_csv_has_a_row_for_each_bundle_and_way(evidence: Evidence) -> None:
    """Raw numbers for whoever wants to draw another conclusion."""
    rows = [*csv.DictReader(evidence_csv([evidence, evidence]).splitlines())]
    assert [row["way"] for row in rows] == [*WAYS, *WAYS]
    assert rows[4] == {
        "bundle": "digits.0.safetensors",
        "library": "rgb",
        "split": "test",
        "images": "7",
        "num_prompts": "8",
        "condition": "115.25",
        "rank": "192",
        "width": "192",
        "low": "0.03",
        "high": "0.96",
        "outside": "0",
        "residual": "0",
        "way": "8-bit PNG",
        "top1": "0.70000",
        "same_as_forward": "0.90000",
        "feature_difference": "0.5",
    }


def test_the_table_has_a_row_for_each_bundle(evidence: Evidence) -> None:
    """Accuracy in per cent, in the order of the ways."""
    lines = as_markdown([evidence, evidence]).splitlines()
    assert len(lines) == 4
    assert len({line.count("|") for line in lines}) == 1
    assert "| digits.0 | rgb | 7 | 115 | 0.03 .. 0.96 | 0.0% | 50.00 | 55.00 |" in lines[2]
    assert lines[2].endswith("| 75.00 | 90.0% |")


def test_a_png_changes_no_pixel_and_a_jpeg_does() -> None:
    """The files are really written and read."""
    pixels = torch.randint(0, 256, (2, 40, 32, 3), dtype=torch.uint8)
    assert torch.equal(inversion.through_file(pixels, "PNG"), pixels)
    jpeg = inversion.through_file(pixels, "JPEG", quality=95)
    assert jpeg.shape == pixels.shape
    assert not torch.equal(jpeg, pixels)


def test_the_command_writes_both_tables(
    make_trained: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One row a bundle on the screen and in the file."""
    words = [make_trained("rgb"), make_trained("latent"), "--out", tmp_path / "out", "--limit", 4]
    monkeypatch.setattr("sys.argv", ["inversion", *map(str, words)])
    inversion.main()
    printed = capsys.readouterr().out
    assert (tmp_path / "out/inversion.md").read_text().endswith(f" --limit 4\n\n{printed}")
    assert len(printed.splitlines()) == 4
    assert len((tmp_path / "out/inversion.csv").read_text().splitlines()) == 1 + 2 * len(WAYS)


def test_what_cannot_be_inverted_is_one_line(
    make_trained: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prompts that fill no whole row, and a bundle that nobody knows the images of."""
    short = make_trained("rgb", num_prompts=3)
    monkeypatch.setattr("sys.argv", ["inversion", str(short), "--out", str(tmp_path / "out")])
    with pytest.raises(SystemExit, match="pgn: 3 prompts do not fill whole rows of 4 patches"):
        inversion.main()
    with pytest.raises(UsageError, match="does not say how it was trained"):
        measure(make_bundle(tmp_path, "digits", "ab" * 32))
