"""Loss and accuracy over the epochs as one picture, with the epoch that validation chose."""

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


def chosen_epoch(history: Sequence[dict[str, Any]]) -> int:
    """The epoch whose model is the run's, from the records of log.jsonl: the best on validation; ties, lower loss."""
    best = max(history, key=lambda record: (record["val_balanced"], -record["val_loss"]))
    return int(best["epoch"])


def draw_curves(history: Sequence[dict[str, Any]], probe_accuracy: float, path: Path) -> None:
    """Write the PNG: loss on the left, accuracy in % with the linear probe's as a line on the right."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    loss, accuracy = figure.subplots(1, 2)
    epochs = [record["epoch"] for record in history]
    chosen = chosen_epoch(history)
    for axes, factor, train, val, title in (
        (loss, 1, "train_loss", "val_loss", "cross-entropy"),
        (accuracy, 100, "train_top1", "val_balanced", "accuracy, %"),
    ):
        for key, color, label in ((train, TRAIN, "train (augmented)"), (val, VAL, "validation")):
            axes.plot(epochs, [factor * record[key] for record in history], "o-", ms=3, color=color, label=label)
        axes.axvline(chosen, ls=":", lw=1, color=VAL, label=f"epoch {chosen}, chosen by validation")
        axes.set(title=title, xlabel="epoch")
        axes.margins(y=0.1)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3)
    probe = {"ls": "--", "lw": 1, "color": PROBE, "zorder": 3}  # above the curves: one that lies on it stays seen, too
    accuracy.axhline(100 * probe_accuracy, label="linear probe, validation", **probe)
    loss.legend()
    accuracy.legend()
    save_figure(figure, path)


def save_figure(figure: Figure, path: Path) -> None:
    """Write the figure as PNG by rename."""
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer)
    with clear_disk_errors(path.parent):
        write_atomically(path, buffer.getvalue())
