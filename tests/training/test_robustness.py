"""Bundles and the probe under corruption."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from pathlib import Path

import pytest

from pgn.bundle import read_bundle
from pgn.errors import DataInvalid, UsageError
from tests.toys import write_images
from training import robustness
from training.config import TrainConfig
from training.corruptions import CORRUPTIONS, STRENGTHS
from training.loop import train
from training.robustness import Measured, as_markdown, main, measure

MakeConfig = Callable[..., TrainConfig]


@pytest.fixture
def few_kinds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two kinds stand for fourteen."""
    kinds = {kind: CORRUPTIONS[kind] for kind in ("contrast", "gaussian_noise")}
    monkeypatch.setattr(robustness, "CORRUPTIONS", kinds)


@pytest.mark.usefixtures("few_kinds")
def test_bundles_and_probe_are_asked_about_every_view(make_config: MakeConfig, tmp_path: Path) -> None:
    """Clean images give the scores of the manifest, so corrupted ones are comparable with it."""
    bundles = [train(make_config(method=method, out=tmp_path / method)) for method in ("pgn", "iip")]
    found = measure(bundles)
    assert {each.method for each in found} == {"linear probe", "pgn", "iip"}
    assert len(found) == 3 * (1 + 2 * len(STRENGTHS))
    assert {each.images for each in found} == {359}
    clean = {each.method: each.top1 for each in found if each.kind == "clean"}
    metrics = read_bundle(bundles[0]).manifest.metrics
    assert clean["pgn"] == pytest.approx(metrics["test"]["top1"], abs=1e-5)
    assert clean["linear probe"] == pytest.approx(metrics["linear_probe"]["test"]["top1"], abs=1e-5)


@pytest.mark.usefixtures("few_kinds")
def test_the_command_writes_table_and_csv(make_config: MakeConfig, tmp_path: Path) -> None:
    """Of a run's folder, about a few of its images."""
    train(make_config(out=tmp_path / "run"))
    main([str(tmp_path / "run"), "--out", str(tmp_path / "out"), "--most", "20"])
    page = (tmp_path / "out/robustness.md").read_text()
    assert "20 test images" in page
    assert "--most 20`" in page, "the page's command makes the page again"
    assert len(list(csv.DictReader(io.StringIO((tmp_path / "out/robustness.csv").read_text())))) == 2 * 7


@pytest.mark.usefixtures("few_kinds")
def test_images_that_have_moved_are_found(make_config: MakeConfig, class_folders: Path, tmp_path: Path) -> None:
    """By their name in the folder that is given."""
    bundle = train(make_config(dataset=[f"folder:{class_folders}"], out=tmp_path / "run"))
    (tmp_path / "elsewhere").mkdir()
    class_folders.rename(tmp_path / "elsewhere" / class_folders.name)
    with pytest.raises(DataInvalid, match="is not a folder"):
        measure([bundle])
    main([str(bundle), "--out", str(tmp_path / "out"), "--data-dir", str(tmp_path / "elsewhere")])
    assert (tmp_path / "out/robustness.csv").exists()


def test_a_folder_without_a_bundle_is_one_clear_line(tmp_path: Path) -> None:
    """No traceback."""
    with pytest.raises(SystemExit, match="none of these folders holds a bundle"):
        main([str(tmp_path), "--out", str(tmp_path)])


@pytest.mark.usefixtures("few_kinds")
def test_tables_take_the_mean_over_seeds_and_kinds() -> None:
    """By strength, and by kind."""
    found = [Measured("cats", "pgn", seed, "clean", 0, 100, 0.9) for seed in (0, 1)]
    for seed, shift in ((0, 0.1), (1, -0.1)):
        for kind in ("contrast", "gaussian_noise"):
            for strength in STRENGTHS:
                top1 = (0.6 if kind == "contrast" else 0.4) - 0.1 * strength + shift
                found.append(Measured("cats", "pgn", seed, kind, strength, 100, top1))
    page = as_markdown(found, command="me")
    assert "| pgn | 90.00 | 40.00 | 30.00 | 20.00 | 30.00 | 33.3 % |" in page
    assert "| gaussian noise | 20.00 |" in page


def test_no_image_is_one_clear_line(tmp_path: Path) -> None:
    """No traceback, and no image dropped in silence."""
    with pytest.raises(SystemExit, match="0 images cannot be asked about"):
        main([str(tmp_path / "any.safetensors"), "--out", str(tmp_path), "--most", "0"])


def test_a_mean_is_taken_over_nothing_but_seeds(make_config: MakeConfig, tmp_path: Path) -> None:
    """Two bundles of one method that learned otherwise are no two seeds of one thing."""
    bundles = [train(make_config(out=tmp_path / str(keep), keep=keep, epochs=1)) for keep in (0.5, 1.0)]
    with pytest.raises(UsageError, match=r"differs from .* in keep: no mean is taken over these"):
        measure(bundles)


def test_images_whose_classes_have_changed_are_refused(
    make_config: MakeConfig, class_folders: Path, tmp_path: Path
) -> None:
    """A class more shifts the labels of those behind it."""
    bundle = train(make_config(dataset=[f"folder:{class_folders}"], out=tmp_path / "run", epochs=1))
    write_images(class_folders / "bird", 10, seed=3)
    with pytest.raises(UsageError, match="knows other classes than"):
        measure([bundle])
