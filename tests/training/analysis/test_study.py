"""A bundle opened and looked into."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pgn.bundle import read_bundle
from pgn.errors import DataInvalid, UsageError
from tests.toys import make_bundle
from training.analysis.study import Study, study
from training.analysis.subject import Subject, open_subject
from training.config import TrainConfig


def test_answers_are_those_that_the_manifest_states(subject: Subject) -> None:
    """An analysis of anything but what is served would mislead."""
    right = (subject.probabilities().argmax(1) == subject.images.labels).float().mean().item()
    assert right == pytest.approx(subject.bundle.manifest.metrics["test"]["top1"], abs=1e-5)


def test_inner_values_belong_to_the_images_that_are_named(subject: Subject, found: Study) -> None:
    """Row by row: the same prompts and features as asked one by one."""
    predictor, row = subject.predictor, 17
    inputs = predictor.backbone.normalise(subject.images.pixels(found.indices[row : row + 1]))
    with torch.inference_mode():
        prompts = predictor.generator(inputs)
        assert torch.allclose(found.prompts[row], prompts[0], atol=1e-5)
        assert torch.allclose(found.combined[row], predictor.backbone(inputs, prompts)[0], atol=1e-5)
        assert torch.allclose(found.frozen[row], predictor.backbone(inputs)[0], atol=1e-5)
    assert found.labels[row] == subject.images.labels[found.indices[row]]


def test_a_study_has_the_shapes_that_it_states(found: Study) -> None:
    """M 60, K 4, N 6, D 32, a grid of 4 x 4 patches."""
    assert found.prompts.shape == (60, 4, 32)
    assert found.mixture is not None
    assert found.mixture.shape == (60, 4, 6)
    assert found.attention_plain.shape == (60, 16)
    assert found.attention.shape == (60, 20)


def test_prompts_without_a_library_have_no_mixture(bundles: dict[str, Path]) -> None:
    """Input-independent prompts are looked into as well."""
    found = study(open_subject(bundles["iip"]), most=5)
    assert found.mixture is None
    assert (found.prompts == found.prompts[0]).all()


def test_a_bundle_from_elsewhere_says_what_is_missing(tmp_path: Path) -> None:
    """Without its config, nobody knows its images."""
    with pytest.raises(UsageError, match="does not say how it was trained"):
        open_subject(make_bundle(tmp_path, "shapes", "0" * 64))


def test_images_of_other_classes_are_refused(
    bundles: dict[str, Path], class_folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder that has changed since would give labels another meaning."""
    _say_trained_on(f"folder:{class_folders}", bundles["pgn"], monkeypatch)
    with pytest.raises(UsageError, match="knows other classes"):
        open_subject(bundles["pgn"])


def test_images_that_have_moved_are_found_by_their_name(
    bundles: dict[str, Path], class_folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run is looked into on another machine than it was trained on."""
    _say_trained_on(f"folder:/trained/here/{class_folders.name}", bundles["pgn"], monkeypatch)
    with pytest.raises(DataInvalid, match="is not a folder"):
        open_subject(bundles["pgn"])
    with pytest.raises(UsageError, match="knows other classes"):  # so they were opened
        open_subject(bundles["pgn"], data_dir=class_folders.parent)


def _say_trained_on(spec: str, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = {**read_bundle(bundle).manifest.training["config"], "dataset": [spec]}
    monkeypatch.setattr("training.analysis.subject.config_of_bundle", lambda _: TrainConfig.model_validate(config))
