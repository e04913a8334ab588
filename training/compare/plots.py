"""A summary as pictures: leads over the linear probe and their price, or curves over the share of images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import mean

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

from training.compare.summary import PROBE, Group, Summary, mean_over_sets, spread
from training.curves import save_figure

MARKERS = "osD^vP*Xh<>pd8"
SIDES = [(6, 4), (-6, 4), (6, -4), (-6, -4), (0, 12), (0, -12), (12, 16), (-12, -16)]  # of a point, for its name


def draw(summary: Summary, path: Path) -> bool:
    """Write the PNG that suits the grid, and say whether there was anything to draw."""
    if not any(group.results for group in summary.groups.values()):
        return False
    save_figure(_curves(summary) if len(summary.fractions) > 1 else _standings(summary), path)
    return True


def _standings(summary: Summary) -> Figure:
    """For each table its rows against the linear probe; for a single table also mean accuracy against parameters.

    The latter only where there is a set that all rows have.
    """
    (fraction,) = summary.fractions
    tables = [[row for row in summary.rows_of(table) if row != PROBE] for table in summary.tables]
    heights = [len(rows) + 1.5 for rows in tables]
    priced = len(tables) == 1 and bool(_sets_of_all(summary, fraction))
    figure = Figure(figsize=(11 if priced else 7, max(4.0, 0.36 * sum(heights) + 1)), layout="constrained")
    points = {}
    if priced:
        prices, leads = figure.subplots(1, 2)
        points = _prices(prices, summary, fraction)
        panels = [leads]
    else:
        panels = list(figure.subplots(len(tables), 1, squeeze=False, height_ratios=heights)[:, 0])
    for panel, rows, table in zip(panels, tables, summary.tables, strict=True):
        _leads(panel, summary, rows, fraction)
        panel.set_title(table or "set by set", loc="left")
    probed = PROBE in summary.rows
    panels[-1].set(xlabel="test top-1, points over the linear probe" if probed else "test top-1, %")
    for axes in figure.axes:
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    handles, labels = panels[0].get_legend_handles_labels()
    columns = min(5 if priced else 3, max(1, len(labels)))
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False)
    if points:
        name_points(figure, prices, points)
    return figure


def _finished_rows(summary: Summary) -> list[str]:
    return [row for row in summary.rows if summary.row_results(row)]


def _sets_of_all(summary: Summary, fraction: float) -> tuple[str, ...]:
    """The sets over which all rows have a mean; a grid may have none."""
    return summary.common_sets(_finished_rows(summary), fraction)


def _prices(axes: Axes, summary: Summary, fraction: float) -> dict[str, tuple[float, float]]:
    """Every row at its trained parameters and its mean, both over the sets that all rows have; returns the points."""
    sets = _sets_of_all(summary, fraction)
    points = {}
    for row in _finished_rows(summary):
        groups = [group for name in sets if (group := summary.group(row, name, fraction))]
        value, deviation = mean_over_sets(groups)
        parameters = mean(mean(result.trained_parameters for result in group.results) for group in groups)
        # Each point has its name; colours and markers mean sets, in the other panel.
        axes.errorbar(parameters, 100 * value, yerr=100 * (deviation or 0), fmt="o", ms=5, color="#444444")
        points[row] = parameters, 100 * value
    axes.set_xscale("symlog", linthresh=1000)
    axes.margins(x=0.15)
    of = f"mean of {len(sets)} sets" if len(sets) > 1 else "".join(sets)
    axes.set(xlabel="trained parameters, head included", ylabel=f"test top-1, %, {of}")
    axes.set_title("accuracy and its price", loc="left")
    return points


def name_points(figure: Figure, axes: Axes, points: dict[str, tuple[float, float]]) -> list[Bbox]:
    """Write each name beside its point, on the first side where it covers no point, no other name and no scale.

    Call it last: whatever moves the axes afterwards moves the points, but not what was found about the names.

    Returns:
        Where the names are, in pixels.
    """
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw_without_rendering()
    centres = [axes.transData.transform(point) for point in points.values()]
    taken = [Bbox.from_extents(x - 6, y - 6, x + 6, y + 6) for x, y in centres]
    names = []
    for name, point in points.items():
        text = axes.annotate(name, point, xytext=SIDES[0], textcoords="offset points", fontsize=8)
        text.set_in_layout(False)
        for right, up in [*SIDES, SIDES[0]]:
            text.xyann = (right, up)
            text.set_horizontalalignment("left" if right > 0 else "right" if right < 0 else "center")
            text.set_verticalalignment("bottom" if up > 0 else "top")
            box = text.get_window_extent(renderer)
            if box.x0 >= axes.bbox.x0 and box.y0 >= axes.bbox.y0 and not any(box.overlaps(other) for other in taken):
                break
        taken.append(box)
        names.append(box)
    return names


def _leads(axes: Axes, summary: Summary, rows: Sequence[str], fraction: float) -> None:
    """One line a row, a point for each set; zero is the linear probe, if there is one."""
    for number, name in enumerate(summary.sets):
        probe = summary.group(PROBE, name, fraction)
        base = mean(probe.test.values()) if probe else 0.0
        colour, marker = _look(number)
        found = [(y, group) for y, row in enumerate(rows) if (group := summary.group(row, name, fraction))]
        complete = [(y, [*group.test.values()]) for y, group in found if group.is_complete]
        axes.errorbar(
            [100 * (mean(values) - base) for _, values in complete],
            [y for y, _ in complete],
            xerr=[100 * (spread(values) or 0) for _, values in complete],
            fmt=marker,
            ms=5,
            color=colour,
            label=name,
        )
    axes.axvline(0, lw=1, color="#555555", visible=PROBE in summary.rows)
    axes.set_yticks(range(len(rows)), rows)
    axes.set_ylim(len(rows) - 0.5, -0.5)


def _curves(summary: Summary) -> Figure:
    """One panel a set: test top-1 against the number of training images, with the spread as a band."""
    count = len(summary.sets)
    columns = min(3, count)
    lines = -(-count // columns)
    figure = Figure(figsize=(4 * columns, 3.4 * lines + 0.4), layout="constrained")
    panels = figure.subplots(lines, columns, squeeze=False).flatten()
    for panel, name in zip(panels, summary.sets, strict=False):
        for number, row in enumerate(summary.rows):
            groups = [summary.group(row, name, fraction) for fraction in summary.fractions]
            _curve(panel, [group for group in groups if group and group.is_complete], *_look(number), row)
        panel.set_xscale("log")
        images = sorted({r.split_sizes["train"] for g in summary.groups.values() if g.set == name for r in g.results})
        panel.set_xticks(images, [f"{count:,}" for count in images])
        panel.minorticks_off()
        panel.set(xlabel="training images", ylabel="test top-1, %")
        panel.set_title(name, loc="left")
        panel.grid(alpha=0.3)
        panel.spines[["top", "right"]].set_visible(False)
    for panel in panels[count:]:
        panel.set_visible(False)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(6, max(1, len(labels))), frameon=False)
    return figure


def _curve(panel: Axes, groups: list[Group], colour: str, marker: str, label: str) -> None:
    if not groups:
        return
    images = [mean(result.split_sizes["train"] for result in group.results) for group in groups]
    values = np.array([100 * mean(group.test.values()) for group in groups])
    deviations = np.array([100 * (spread([*group.test.values()]) or 0) for group in groups])
    style = "--" if label == PROBE else "-"
    panel.plot(images, values, marker + style, ms=4, color=colour, label=label)
    panel.fill_between(images, values - deviations, values + deviations, color=colour, alpha=0.15, lw=0)


def _look(number: int) -> tuple[str, str]:
    """Colour and marker of a row; they differ together, so that nobody has to tell colours apart."""
    colours = mpl.color_sequences["tab10"]
    return mpl.colors.to_hex(colours[number % len(colours)]), MARKERS[number % len(MARKERS)]
