"""A bundle beside the linear probe and input-independent prompts."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from pgn.bundle import read_bundle
from pgn.errors import ArtefactError, UsageError
from tests.toys import make_backbone, make_bundle
from training.config import TrainConfig
from training.evaluate import Report, confusion_matrix, draw_confusion, evaluate, standard_error
from training.loop import train
from training.result import read_result
from training.scores import Scores

MakeConfig = Callable[..., TrainConfig]


def test_an_evaluation_repeats_the_manifests_numbers(make_config: MakeConfig, tmp_path: Path) -> None:
    """Same test images, same answers, same probe."""
    bundle = train(make_config())
    metrics = read_bundle(bundle).manifest.metrics
    report = evaluate(bundle, out=tmp_path / "eval")
    assert report.scores["pgn"].top1 == pytest.approx(metrics["test"]["top1"], abs=1e-5)
    assert report.scores["pgn"].images == 359
    assert report.scores["linear probe"].top1 == pytest.approx(metrics["linear_probe"]["test"]["top1"], abs=1e-5)


def test_an_evaluation_leaves_json_and_a_picture(make_config: MakeConfig, tmp_path: Path) -> None:
    """The confusion matrix in both; its counts sum to the images."""
    report = evaluate(train(make_config()), out=tmp_path / "eval")
    written = json.loads((tmp_path / "eval" / "evaluation.json").read_text())
    assert sum(map(sum, written["confusion"])) == 359
    assert sum(row[i] for i, row in enumerate(written["confusion"])) == round(report.scores["pgn"].top1 * 359)
    assert (tmp_path / "eval" / "confusion.png").read_bytes().startswith(b"\x89PNG")


def test_another_split_or_other_images_leave_the_earlier_files_alone(
    make_config: MakeConfig, some_digits: Path, tmp_path: Path
) -> None:
    """Each has files of its own; the data set's own name on the command line makes no other images of it."""
    bundle, out = train(make_config()), tmp_path / "eval"
    for asked in ({}, {"split": "val"}, {"dataset": (f"folder:{some_digits}",)}, {"dataset": ("digits",)}):
        evaluate(bundle, out=out, **asked)
    names = ["confusion-val.png", "confusion.png", "confusion.some.png"]
    names += ["evaluation-val.json", "evaluation.json", "evaluation.some.json"]
    assert sorted(path.name for path in out.iterdir()) == names
    assert json.loads((out / "evaluation.json").read_text())["dataset"] == "digits"


@pytest.mark.parametrize("method", ["pgn", "iip", "vpt-deep"])
def test_an_evaluation_repeats_the_results_scores(method: str, make_config: MakeConfig, tmp_path: Path) -> None:
    """Served or not: one definition of the loss, before any temperature, so that rows and files can be compared."""
    config = make_config(method=method)
    train(config)
    result, report = read_result(config.out), evaluate(config.out, out=tmp_path / "eval")
    assert result is not None
    assert report.bundle == (result.bundle or config.out.name)
    assert report.scores[method].brief() == pytest.approx(result.test, abs=2e-5)
    assert report.scores["linear probe"].brief() == pytest.approx(result.linear_probe["test"], abs=2e-5)


def test_the_folder_of_a_served_method_stands_for_its_bundle(make_config: MakeConfig, tmp_path: Path) -> None:
    """Either can be named."""
    bundle = train(make_config())
    assert evaluate(bundle.parent, out=tmp_path / "a").to_dict() == evaluate(bundle, out=tmp_path / "b").to_dict()


@pytest.fixture
def some_digits(tmp_path: Path) -> Path:
    """A folder of threes and sevens."""
    digits = load_digits()
    for number, (image, label) in enumerate(zip(digits.images[:400], digits.target, strict=False)):
        if label in (3, 7):
            folder = tmp_path / "some" / str(label)
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray((image * 15).astype("uint8")).save(folder / f"{number}.png")
    return tmp_path / "some"


def test_a_bundle_may_be_asked_about_some_of_its_classes(
    make_config: MakeConfig, some_digits: Path, tmp_path: Path
) -> None:
    """ImageNet-R shows 200 of ImageNet's 1,000 classes: the other 800 are no answers there."""
    report = evaluate(train(make_config()), out=tmp_path / "eval", dataset=(f"folder:{some_digits}",))
    assert report.classes == ("3", "7")
    assert report.confusion.shape == (2, 2)
    assert report.scores["pgn"].top1 > 0.5
    assert report.confusion.trace() / report.confusion.sum() == pytest.approx(report.scores["pgn"].top1)


def test_a_run_that_has_not_ended_cannot_be_evaluated(make_config: MakeConfig, tmp_path: Path) -> None:
    """Nor can a folder that holds none."""
    with pytest.raises(UsageError, match="holds no finished run"):
        evaluate(tmp_path, out=tmp_path / "eval")


def test_input_independent_prompts_can_be_trained_on_the_spot(make_config: MakeConfig, tmp_path: Path) -> None:
    """With equal epochs, and read from the second bundle ever after, which has a row to itself beside another."""
    bundle = train(make_config())
    report = evaluate(bundle, out=tmp_path / "eval", train_iip=True)
    (iip,) = (tmp_path / "eval" / "iip").glob("*.safetensors")
    assert read_bundle(iip).manifest.metrics["epochs"] == 2
    assert evaluate(bundle, out=tmp_path / "eval", iip=iip).scores["iip"] == report.scores["iip"]
    other = train(make_config(method="iip", out=tmp_path / "other", epochs=1, seed=1))
    both = evaluate(other, out=tmp_path / "eval", iip=iip).scores
    assert list(both) == ["iip", "linear probe", f"iip ({iip.name})"]
    assert both[f"iip ({iip.name})"] == report.scores["iip"] != both["iip"]


def test_what_cannot_stand_beside_a_bundle_is_refused(make_config: MakeConfig, tmp_path: Path) -> None:
    """The same prompts once more, or a PGN in the row of input-independent prompts."""
    iip = train(make_config(method="iip", out=tmp_path / "iip", epochs=1))
    pgn = train(make_config(epochs=1))
    with pytest.raises(UsageError, match=r"--train-iip has nothing to add: .* holds such prompts already"):
        evaluate(iip, out=tmp_path / "eval", train_iip=True)
    with pytest.raises(UsageError, match=r"--train-iip has nothing to add: .* holds such prompts already"):
        evaluate(pgn, out=tmp_path / "eval", iip=iip, train_iip=True)
    with pytest.raises(UsageError, match="is a bundle of pgn, not of input-independent prompts"):
        evaluate(iip, out=tmp_path / "eval", iip=pgn)


def _report(classes: int) -> Report:
    """Of seventeen images, twelve of them right."""
    scores = Scores(images=17, top1=12 / 17, top5=16 / 17, loss=0.7, balanced=12 / 17)
    names = tuple(f"class {number}" for number in range(classes))
    both = {"pgn": scores, "linear probe": scores.model_copy(update={"top1": 1.0})}
    return Report("pets.pgn", "pets", "test", names, both, torch.eye(classes, dtype=torch.int64))


def test_the_table_has_a_line_for_each_method_and_says_how_far_chance_reaches() -> None:
    """Aligned, in per cent: twelve of seventeen may be 60 or 80 %, and seventeen of seventeen are not always all."""
    assert _report(6).table().splitlines() == [
        "method        images        top-1  top-5",
        "pgn               17  70.6 ± 11.1   94.1",
        "linear probe      17  100.0 ± 4.1   94.1",
        "±: standard error of top-1; asked about other images, it would differ by about as much",
    ]


def test_of_five_classes_no_top_5_is_shown() -> None:
    """Every answer is among the first five."""
    assert _report(5).table().splitlines()[0].split() == ["method", "images", "top-1"]


def test_the_standard_error_shrinks_with_the_images() -> None:
    """A hundred times the images, a tenth of the error."""
    assert standard_error(0.5, 100) == pytest.approx(0.05)
    assert standard_error(0.5, 10_000) == pytest.approx(0.005)


def test_images_of_other_classes_are_refused(make_config: MakeConfig, class_folders: Path, tmp_path: Path) -> None:
    """Their labels would mean something else."""
    bundle = train(make_config())
    with pytest.raises(UsageError, match="the images have the classes cat, dog, the bundle knows 0, 1, 2"):
        evaluate(bundle, out=tmp_path / "eval", dataset=(f"folder:{class_folders}",))


def test_a_bundle_from_elsewhere_says_what_is_missing(tmp_path: Path) -> None:
    """Without its config, the probe's images are unknown."""
    bundle = make_bundle(tmp_path, "shapes", "0" * 64)
    with pytest.raises(UsageError, match="does not say how it was trained"):
        evaluate(bundle, out=tmp_path / "eval")


def test_a_row_of_the_confusion_matrix_is_a_true_class() -> None:
    """Two images of class 0, one answered 1."""
    matrix = confusion_matrix(torch.tensor([0, 1, 1]), torch.tensor([0, 0, 1]), 3)
    assert matrix.tolist() == [[1, 1, 0], [0, 1, 0], [0, 0, 0]]


def test_weights_are_not_asked_on_another_backbone(make_config: MakeConfig, tmp_path: Path) -> None:
    """Of the same shape they would load, and answer nonsense."""
    config = make_config(method="vpt-deep", epochs=1)
    train(config)
    make_backbone(tmp_path / "other", seed=5)
    with pytest.raises(ArtefactError, match=r"was trained on backbone .*, not on"):
        evaluate(config.out, out=tmp_path / "eval", backbone=tmp_path / "other")


def test_input_independent_prompts_are_trained_for_a_pgn_that_went_on_from_another(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    """They have nothing to go on from."""
    first = train(make_config(out=tmp_path / "first", epochs=1))
    second = train(make_config(out=tmp_path / "second", epochs=1, start_from=[first]))
    assert "iip" in evaluate(second, out=tmp_path / "eval", train_iip=True).scores


def test_input_independent_prompts_of_other_classes_are_refused(
    make_config: MakeConfig, class_folders: Path, tmp_path: Path
) -> None:
    """In one line, before anything is asked."""
    config = make_config(method="iip", dataset=[f"folder:{class_folders}"], out=tmp_path / "iip", epochs=1)
    with pytest.raises(UsageError, match=r"the images have the classes 0, 1, .* knows cat, dog"):
        evaluate(train(make_config(epochs=1)), out=tmp_path / "eval", iip=train(config))


def test_of_very_many_classes_the_picture_has_only_colours(tmp_path: Path) -> None:
    """A name for each of a thousand would make it 45,000 pixels wide."""
    classes = tuple(f"class {number}" for number in range(1000))
    scores = {"pgn": Scores(images=1000, top1=1.0, top5=1.0, loss=0.0, balanced=1.0)}
    report = Report("many.pgn", "many", "test", classes, scores, torch.eye(1000, dtype=torch.int64))
    draw_confusion(report, tmp_path / "confusion.png")
    with Image.open(tmp_path / "confusion.png") as image:
        assert max(image.size) < 4000
