"""What the report says of one run."""

from __future__ import annotations

from pathlib import Path

import pytest

from pgn.errors import ArtefactError
from training.analysis.answers import Answers, answers_of_run
from training.report.chapter import MOST_CELLS, Chapter, write_chapter
from training.report.standings import standing_of_run
from training.result import read_result


@pytest.fixture(scope="module")
def answers(runs: dict[str, Path]) -> Answers:
    """Of the linear head on digits' test images."""
    return answers_of_run(runs["linear"])


def _chapter(runs: dict[str, Path], answers: Answers) -> Chapter:
    result = read_result(runs["linear"])
    assert result is not None
    return write_chapter(standing_of_run(result), runs["linear"], "pgn train", answers)


def test_its_numbers_are_those_of_the_result(runs: dict[str, Path], answers: Answers) -> None:
    """Confusion, classes and mistakes count the same answers that the table's accuracy does."""
    chapter = _chapter(runs, answers)
    answered = chapter.answered
    assert answered.confusion is not None
    right = sum(row[label] for label, row in enumerate(answered.confusion))
    assert right / answered.images == pytest.approx(chapter.standing.test, abs=1e-5)
    assert answered.wrong_count == answered.images - right
    assert sum(row.images for row in answered.classes) == answered.images


def test_the_hardest_class_comes_first_and_the_surest_mistake(runs: dict[str, Path], answers: Answers) -> None:
    """What a reader looks for."""
    answered = _chapter(runs, answers).answered
    shares = [row.accuracy for row in answered.classes if row.accuracy is not None]
    assert shares == sorted(shares)
    sure = [wrong.confidence for wrong in answered.wrong]
    assert sure == sorted(sure, reverse=True)
    assert all(wrong.label != wrong.answer for wrong in answered.wrong)


def test_a_matrix_of_very_many_classes_is_a_picture(runs: dict[str, Path], answers: Answers) -> None:
    """A table of a thousand columns cannot be read."""
    names = tuple(map(str, range(MOST_CELLS + 1)))
    widened = answers.probabilities.new_zeros(len(answers.images), len(names))
    widened[:, :10] = answers.probabilities
    answered = _chapter(runs, Answers(answers.images, names, widened)).answered
    assert answered.confusion is None
    assert answered.confusion_picture is not None
    assert answered.confusion_picture.startswith("data:image/png")
    assert answered.classes[-1].accuracy is None  # a class without images says nothing


def test_without_a_log_there_are_no_curves(runs: dict[str, Path], answers: Answers, tmp_path: Path) -> None:
    """A bundle that was sent alone has none."""
    chapter = _chapter(runs, answers)
    assert len(chapter.curves) == 2
    assert write_chapter(chapter.standing, tmp_path, "pgn train", answers).curves == []


@pytest.mark.parametrize("line", ['{"epoch": 2, "train_lo', "[]", '{"epoch": 2}', "\udcff", ""])
def test_a_damaged_log_is_one_clear_line(line: str, runs: dict[str, Path], answers: Answers, tmp_path: Path) -> None:
    """Cut short, of another kind, without a number, of no text: the file, its line, and how to go on without it."""
    whole = (runs["linear"] / "log.jsonl").read_text().splitlines()[0]
    (tmp_path / "log.jsonl").write_text(f"{whole}\n{line}\n", errors="surrogateescape")
    standing = _chapter(runs, answers).standing
    with pytest.raises(ArtefactError, match=r"line 2 of .*log\.jsonl is no record of an epoch \(delete the file"):
        write_chapter(standing, tmp_path, "pgn train", answers)
