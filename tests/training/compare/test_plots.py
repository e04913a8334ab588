"""The summary as pictures."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from training.compare import plots
from training.compare.grid import Grid, read_grid
from training.compare.plots import draw, name_points
from training.compare.summary import summarise

Finish = Callable[..., None]


def test_names_of_points_at_one_place_cover_neither_each_other_nor_the_points() -> None:
    """Methods of equal cost and accuracy stay readable."""
    figure = Figure(layout="constrained")
    axes = figure.subplots()
    axes.set(xlim=(0, 10), ylim=(0, 10))
    points = {"linear": (5.0, 5.0), "linear probe": (5.0, 5.1), "vpt-shallow": (5.05, 5.0), "iip": (5.5, 5.0)}
    boxes = name_points(figure, axes, points)
    assert len(boxes) == len(points)
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))
    centres = [axes.transData.transform(point) for point in points.values()]
    assert not any(box.contains(*centre) for box in boxes for centre in centres)


def test_names_of_points_beside_a_scale_stay_off_its_numbers() -> None:
    """Also where a neighbour is in the way on the other side."""
    figure = Figure(layout="constrained")
    axes = figure.subplots()
    axes.set(xlim=(0, 10), ylim=(0, 10))
    boxes = name_points(figure, axes, {"linear probe": (0.2, 5.0), "iip": (0.5, 5.1), "vp": (5.0, 0.1)})
    assert all(box.x0 >= axes.bbox.x0 and box.y0 >= axes.bbox.y0 for box in boxes)


@pytest.mark.parametrize(
    ("shared", "titles"), [(True, ["accuracy and its price", "set by set"]), (False, ["set by set"])]
)
def test_accuracy_and_price_are_drawn_where_all_rows_share_a_set(
    write_grid: Callable[[str], Path], finish: Finish, tmp_path: Path, shared: bool, titles: list[str]
) -> None:
    """A mean over different sets says nothing, and an empty panel neither."""
    words = '[sets.cats]\ndataset = "tar:{data}/cats.tar"\n[sets.dogs]\ndataset = "tar:{data}/dogs.tar"\n'
    words += '[methods.pgn]\n[methods.iip]\n[[blocks]]\nmethods = ["pgn"]\nsets = ["cats"]\n'
    words += '[[blocks]]\nmethods = ["iip"]\nsets = ["dogs"' + (', "cats"' if shared else "") + "]\n"
    grid = read_grid(write_grid(words))
    for cell in grid.cells():
        finish(cell, 0.5)
    drawn: list[Figure] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plots, "save_figure", lambda figure, path: drawn.append(figure))
        assert draw(summarise(grid, tmp_path / "out"), tmp_path / "plot.png")
    assert [axes.get_title(loc="left") for axes in drawn[0].axes] == titles


def test_without_a_finished_cell_there_is_no_picture(tmp_path: Path, grid: Grid) -> None:
    """Not an empty one."""
    assert not draw(summarise(grid, tmp_path / "out"), tmp_path / "plot.png")
    assert not (tmp_path / "plot.png").exists()
