"""Groups of vectors against the classes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from training.analysis.clusters import LABELS, mutual_information, prompt_map, vectors_of
from training.analysis.study import Study, study
from training.analysis.subject import open_subject


@pytest.fixture
def labels() -> torch.Tensor:
    """60 images of 3 classes."""
    return torch.arange(60) % 3


def test_vectors_that_know_the_class_share_all_with_the_labels(labels: torch.Tensor) -> None:
    """And noise next to nothing."""
    torch.manual_seed(0)
    knowing = torch.eye(3)[labels] + 0.01 * torch.randn(60, 3)
    found = mutual_information({"knowing": knowing, "noise": torch.randn(60, 8)}, labels)
    assert found["knowing", LABELS] == pytest.approx(1)
    assert found["noise", LABELS] < 0.2
    assert set(found) == {("knowing", "noise"), ("knowing", LABELS), ("noise", LABELS)}


def test_all_pairs_of_the_paper_are_there(found: Study) -> None:
    """PGN, frozen, combined and labels."""
    pairs = mutual_information(vectors_of(found), found.labels)
    assert len(pairs) == 6
    assert all(0 <= value <= 1 for value in pairs.values())


def test_prompts_that_are_the_same_for_all_images_form_no_groups(bundles: dict[str, Path]) -> None:
    """Of one point there are no clusters."""
    assert "PGN prompts" not in vectors_of(study(open_subject(bundles["iip"]), most=5))


def test_the_map_keeps_groups_apart() -> None:
    """Two kinds of prompts are two heaps, and the map is always the same."""
    torch.manual_seed(0)
    prompts = torch.cat([torch.randn(20, 4, 8) + 5, torch.randn(20, 4, 8) - 5])
    places = prompt_map(prompts)
    assert places.shape == (40, 2)
    heaps = places[:20], places[20:]
    between = np.linalg.norm(heaps[0].mean(0) - heaps[1].mean(0))
    assert between > max(np.linalg.norm(heap - heap.mean(0), axis=1).max() for heap in heaps)
    assert (prompt_map(prompts) == places).all()
