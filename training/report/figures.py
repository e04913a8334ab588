"""Plots as SVG that stands in the page: text and axes take the page's own colour, so light and dark both fit."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from itertools import count
from typing import Any, Final

import matplotlib as mpl
import numpy as np
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from training.analysis.confidence import Reliability
from training.curves import chosen_epoch

_NUMBERS: Final = count()  # of the figures that this process has drawn
_INK: Final = "#010203"  # drawn with this, written as currentColor
ACCENT, OTHER, QUIET = "#3b82c4", "#d9722b", "#8a8f98"  # to be seen on white and on black
_SIZE: Final = (4.4, 3.1)  # inches; so small that a phone shows the text at its full size
_STYLE: Final[dict[Any, Any]] = {
    "svg.fonttype": "none",
    "font.size": 10,
    "text.color": _INK,
    "axes.edgecolor": _INK,
    "axes.labelcolor": _INK,
    "axes.titlecolor": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": QUIET,
    "grid.alpha": 0.25,
    "legend.frameon": False,
    "legend.labelcolor": _INK,
}


def loss_curve(history: Sequence[dict[str, Any]], *, alt: str) -> Markup:
    """Cross-entropy over the epochs, from the records of log.jsonl, with the epoch that validation chose."""
    return _curve(history, "train_loss", "val_loss", "cross-entropy", 1, None, alt)


def accuracy_curve(history: Sequence[dict[str, Any]], probe: float, *, alt: str) -> Markup:
    """Top-1 over the epochs, with the chosen epoch and the linear probe's top-1 on validation as lines."""
    return _curve(history, "train_top1", "val_balanced", "top-1, %", 100, probe, alt)


def _curve(
    history: Sequence[dict[str, Any]], train: str, val: str, ylabel: str, factor: float, level: float | None, alt: str
) -> Markup:
    with mpl.rc_context(_STYLE):
        figure, axes = _blank()
        epochs = [record["epoch"] for record in history]
        marker = "o-" if len(epochs) < 30 else "-"
        axes.plot(epochs, [factor * r[train] for r in history], marker, ms=3, color=OTHER, label="train, augmented")
        axes.plot(epochs, [factor * r[val] for r in history], marker, ms=3, color=ACCENT, label="validation")
        chosen = chosen_epoch(history)
        axes.axvline(chosen, ls=":", lw=1, color=ACCENT, label=f"epoch {chosen}, chosen")
        if level is not None:  # above the curves, so that one that lies on it does not cover it
            axes.axhline(factor * level, ls="--", lw=1, color=QUIET, zorder=3, label="linear probe, validation")
        axes.margins(y=0.1)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set(xlabel="epoch", ylabel=ylabel)
        axes.legend()
        return _svg(figure, alt)


def reliability_diagram(found: Reliability, *, alt: str) -> Markup:
    """Accuracy in each bin of confidence; on the diagonal a bundle is as right as it is sure."""
    with mpl.rc_context(_STYLE):
        figure, axes = _blank()
        width = 1 / len(found.share)
        filled = [i for i, share in enumerate(found.share) if share]
        accuracy = [found.accuracy[i] for i in filled]
        axes.bar([(i + 0.5) * width for i in filled], accuracy, 0.9 * width, color=ACCENT)
        axes.plot([0, 1], [0, 1], ls="--", lw=1.5, color=OTHER)
        for i in filled:
            label = f"{100 * found.share[i]:.0f} %" if found.share[i] >= 0.005 else "<1 %"
            axes.annotate(label, ((i + 0.5) * width, found.accuracy[i] + 0.02), ha="center", fontsize=7.5)
        axes.set(xlim=(0, 1), ylim=(0, 1.1), xlabel="confidence", ylabel="share of right answers")
        return _svg(figure, alt)


def bars(values: Sequence[float], *, xlabel: str, ylabel: str, level: float, level_name: str, alt: str) -> Markup:
    """One bar a value, in order, with a line at `level`."""
    with mpl.rc_context(_STYLE):
        figure, axes = _blank()
        axes.bar(range(1, len(values) + 1), values, color=ACCENT, width=0.8)
        axes.axhline(level, ls="--", lw=1, color=OTHER, label=level_name)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(visible=False, axis="x")
        axes.set(xlabel=xlabel, ylabel=ylabel, ylim=(0, 1.2 * max([*values, level])))  # room for the legend
        axes.legend(loc="upper left")
        return _svg(figure, alt)


def scatter(places: NDArray[np.float32], groups: Sequence[str], *, alt: str) -> Markup:
    """Points on a plane, coloured by group; the axes mean nothing and are left out."""
    names = list(dict.fromkeys(groups))
    colours = mpl.color_sequences["tab10" if len(names) <= 10 else "tab20"]
    members = np.array([names.index(group) for group in groups])
    lines = -(-len(names) // 3)
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(5.2, 4.2 + 0.2 * lines), layout="constrained")
        axes = figure.subplots()
        for number, name in enumerate(names):
            chosen = places[members == number]
            axes.scatter(
                chosen[:, 0], chosen[:, 1], s=7, color=colours[number % len(colours)], alpha=0.8, lw=0, label=name
            )
        axes.set_axis_off()
        figure.legend(loc="outside lower center", ncols=3, markerscale=2)
        return _svg(figure, alt)


def _blank() -> tuple[Figure, Axes]:
    figure = Figure(figsize=_SIZE, layout="constrained")
    return figure, figure.subplots()


def _svg(figure: Figure, alt: str) -> Markup:
    """The figure as an element of the page that scales with its column and is read out as `alt`."""
    figure.patch.set_alpha(0)
    for axes in figure.axes:
        axes.patch.set_alpha(0)
    text = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": f"{alt} {next(_NUMBERS)}"}):  # figures share a page, so their ids must differ
        FigureCanvasSVG(figure).print_svg(text, metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    drawn = text.getvalue()
    drawn = drawn[drawn.index("<svg") :].replace(_INK, "currentColor")
    used = set(re.findall(r"#(\w+)", drawn))  # ids like axes_1 name nothing, and stand in every figure
    drawn = re.sub(r' id="([^"]+)"', lambda found: found[0] if found[1] in used else "", drawn)
    return Markup(drawn.replace("<svg ", f'<svg role="img" aria-label="{escape(alt)}" ', 1))  # noqa: S704  # nosec B704: matplotlib wrote it
