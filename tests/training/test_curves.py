"""The picture of a run."""

from __future__ import annotations

from pathlib import Path

import pytest
from matplotlib.figure import Figure
from PIL import Image

from training import curves
from training.curves import chosen_epoch, draw_curves


def _records(*balanced: float) -> list[dict[str, float]]:
    """Epochs with these accuracies on validation, the loss on it falling."""
    return [
        {"epoch": epoch, "train_loss": 1.0, "val_loss": 1 / epoch, "train_top1": 0.5, "val_balanced": share}
        for epoch, share in enumerate(balanced, start=1)
    ]


def test_the_chosen_epoch_is_the_best_on_validation_of_equal_ones_that_of_lower_loss() -> None:
    """As training chooses the model that it keeps."""
    assert chosen_epoch(_records(0.6, 0.8, 0.7)) == 2
    assert chosen_epoch(_records(0.6, 0.8, 0.8)) == 3


def test_the_picture_marks_the_chosen_epoch_and_shows_the_probe_above_the_curves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In per cent; a validation curve that lies on the probe's line must not cover it."""
    drawn: list[Figure] = []
    monkeypatch.setattr(curves, "save_figure", lambda figure, path: drawn.append(figure))
    draw_curves(_records(0.6, 0.8, 0.7), 0.8, tmp_path / "curves.png")
    for axes in drawn[0].axes:
        assert "epoch 2, chosen by validation" in [line.get_label() for line in axes.lines]
    train, val, chosen, probe = drawn[0].axes[1].lines
    assert list(val.get_ydata()) == pytest.approx([60, 80, 70])
    assert list(chosen.get_xdata()) == [2, 2]
    assert probe.get_zorder() > max(train.get_zorder(), val.get_zorder())


def test_a_run_of_one_epoch_has_a_picture_too(tmp_path: Path) -> None:
    """A single point is a curve as well."""
    record = {"epoch": 1, "train_loss": 1.0, "val_loss": 0.9, "train_top1": 0.5, "val_balanced": 0.6}
    draw_curves([record], 0.55, tmp_path / "curves.png")
    with Image.open(tmp_path / "curves.png") as image:
        assert image.width > 600
