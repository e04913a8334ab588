"""Answers of bundles and of runs that make none."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from pgn.errors import UsageError
from training.analysis.answers import answers_of, answers_of_run
from training.analysis.subject import Subject
from training.config import plan
from training.loop import train
from training.result import read_result


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, toy_settings: dict[str, Any]) -> Path:
    """Folder of a finished run of VPT in every layer."""
    out = tmp_path_factory.mktemp("compared") / "vpt-deep"
    train(plan(["digits"], out, method="vpt-deep", **toy_settings))
    return out


def test_a_run_answers_with_the_accuracy_that_it_states(run: Path) -> None:
    """On the test images, after its weights went through their file."""
    answers, result = answers_of_run(run), read_result(run)
    assert result is not None
    hits = (answers.probabilities.argmax(1) == answers.images.labels).float().mean().item()
    assert hits == pytest.approx(result.test["top1"], abs=1e-5)
    assert torch.allclose(answers.probabilities.sum(1), torch.ones(len(answers.images)))


def test_a_runs_confidence_is_calibrated_as_a_bundles_is(run: Path) -> None:
    """On validation, so that the two can be compared: there no other temperature is better."""
    answers = answers_of_run(run, split="val")
    logits, labels = answers.probabilities.log(), answers.images.labels
    loss = [torch.nn.functional.cross_entropy(logits / scale, labels).item() for scale in (0.7, 1.0, 1.4)]
    assert min(loss) == loss[1]


def test_a_bundle_answers_as_it_is_served(subject: Subject) -> None:
    """With its own temperature."""
    answers = answers_of(subject)
    assert torch.equal(answers.probabilities, subject.probabilities())
    assert answers.classes == subject.classes


def test_a_run_whose_classes_have_changed_is_refused(run: Path, tmp_path: Path) -> None:
    """Answers would stand under wrong names."""
    other = shutil.copytree(run, tmp_path / "other")
    images = json.loads((other / "images.json").read_text())
    (other / "images.json").write_text(json.dumps({**images, "classes": images["classes"][::-1]}))
    with pytest.raises(UsageError, match="knows other classes than digits has today"):
        answers_of_run(other)
