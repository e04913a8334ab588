"""The picture of a run."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from training.curves import draw_curves


def test_a_run_of_one_epoch_has_a_picture_too(tmp_path: Path) -> None:
    """A single point is a curve as well."""
    record = {"epoch": 1, "train_loss": 1.0, "val_loss": 0.9, "train_top1": 0.5, "val_balanced": 0.6}
    draw_curves([record], 0.55, tmp_path / "curves.png")
    with Image.open(tmp_path / "curves.png") as image:
        assert image.width > 600
