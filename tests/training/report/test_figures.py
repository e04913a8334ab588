"""Plots that stand in the page."""

from __future__ import annotations

import re
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from markupsafe import Markup

from training.analysis.confidence import reliability
from training.report.figures import accuracy_curve, bars, loss_curve, reliability_diagram, scatter

_HISTORY: list[dict[str, Any]] = [
    {"epoch": epoch, "train_loss": 2 / epoch, "val_loss": 3 / epoch, "train_top1": 0.5, "val_balanced": 0.4}
    for epoch in (1, 2, 3)
]


def _all() -> dict[str, Markup]:
    sure = reliability(torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]]), torch.tensor([0, 1, 1]))
    places = np.random.default_rng(0).normal(size=(40, 2)).astype(np.float32)
    return {
        "loss": loss_curve(_HISTORY, alt="loss"),
        "accuracy": accuracy_curve(_HISTORY, 0.3, alt="accuracy"),
        "reliability": reliability_diagram(sure, alt="reliability"),
        "bars": bars([1.0, 3.0], xlabel="prompt", ylabel="%", level=2.0, level_name="all alike", alt="bars"),
        "scatter": scatter(places, ["cat", "dog"] * 20, alt="scatter"),
    }


@pytest.mark.parametrize("name", ["loss", "accuracy", "reliability", "bars", "scatter"])
def test_a_figure_is_an_element_that_is_read_out_and_takes_the_pages_colour(name: str) -> None:
    """No file header, no fixed size in the page, no black ink."""
    figure = _all()[name]
    root = ElementTree.fromstring(str(figure))
    assert root.tag.endswith("svg")
    assert root.attrib["aria-label"] == name
    assert "currentColor" in figure
    assert "#010203" not in figure


def test_curves_mark_the_epoch_that_validation_chose() -> None:
    """Of equal accuracies the one of lower loss: the last of these."""
    assert "epoch 3, chosen" in _all()["loss"]
    assert "epoch 3, chosen" in _all()["accuracy"]


def test_figures_with_the_same_words_share_no_id() -> None:
    """In one page an id is one place: a clip path of the other figure would cut this one off."""
    one, other = (set(re.findall(r'id="([^"]+)"', loss_curve(_HISTORY, alt="loss"))) for _ in range(2))
    assert one
    assert not one & other


def test_a_map_of_many_groups_names_all_of_them() -> None:
    """Below the points, so that none is covered."""
    groups = [f"group {number}" for number in range(15)]
    figure = scatter(np.zeros((15, 2), np.float32), groups, alt="map")
    assert all(f">{group}<" in figure for group in groups)
