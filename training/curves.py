"""Loss and accuracy over the epochs, as one picture."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from pgn.bundle import write_atomically
from training.disk import clear_disk_errors

TRAIN, VAL, PROBE = "#7aa6c2", "#c0392b", "#555555"


def draw_curves(history: Sequence[dict[str, Any]], probe_accuracy: float, path: Path) -> None:
    """Write the PNG: loss on the left, accuracy with the linear probe's as a line on the right."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    loss, accuracy = figure.subplots(1, 2)
    epochs = [record["epoch"] for record in history]
    for axes, train, val, title in (
        (loss, "train_loss", "val_loss", "cross-entropy"),
        (accuracy, "train_top1", "val_balanced", "accuracy"),
    ):
        axes.plot(epochs, [record[train] for record in history], "o-", ms=3, color=TRAIN, label="train (augmented)")
        axes.plot(epochs, [record[val] for record in history], "o-", ms=3, color=VAL, label="validation")
        axes.set(title=title, xlabel="epoch")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3)
    accuracy.axhline(probe_accuracy, ls="--", lw=1, color=PROBE, label="linear probe, validation")
    loss.legend()
    accuracy.legend()
    save_figure(figure, path)


def save_figure(figure: Figure, path: Path) -> None:
    """Write the figure as PNG by rename."""
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer)
    with clear_disk_errors(path.parent):
        write_atomically(path, buffer.getvalue())
