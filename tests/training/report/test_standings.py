"""A line of the report's table."""

from __future__ import annotations

from pathlib import Path

from pgn.bundle import read_bundle
from training.report.standings import standing_of_bundle, standing_of_run
from training.result import read_result


def test_a_run_and_its_bundle_stand_alike(runs: dict[str, Path]) -> None:
    """A bundle that was sent without its folder says the same, but for how many parameters learned."""
    result = read_result(runs["pgn"])
    assert result is not None
    assert result.bundle is not None
    of_run = standing_of_run(result)
    of_bundle = standing_of_bundle(result.bundle, read_bundle(runs["pgn"] / result.bundle).manifest)
    assert (of_bundle.name, of_bundle.test, of_bundle.probe) == (of_run.name, of_run.test, of_run.probe)
    assert (of_bundle.epochs, of_bundle.images) == (of_run.epochs, of_run.images)
    assert of_bundle.trained is None
    assert of_run.ratio == result.trained_parameters / result.backbone_parameters


def test_a_method_that_makes_no_bundle_has_a_line_too(runs: dict[str, Path]) -> None:
    """With what it needs of the ViT."""
    result = read_result(runs["linear"])
    assert result is not None
    standing = standing_of_run(result)
    assert (standing.name, standing.bundle, standing.input_only) == ("linear on digits, seed 0", None, False)
