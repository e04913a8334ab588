"""How good logits are."""

from __future__ import annotations

import pytest
import torch

from training.scores import score


def test_top5_counts_the_five_highest() -> None:
    """Rank 1, rank 5 and rank 6."""
    logits = torch.arange(8.0).expand(3, 8)
    found = score(logits, torch.tensor([7, 3, 2]))
    assert found.top1 == pytest.approx(1 / 3)
    assert found.top5 == pytest.approx(2 / 3)


def test_with_fewer_than_five_classes_top5_is_all() -> None:
    """Two classes are no fault."""
    assert score(torch.zeros(4, 2), torch.tensor([0, 1, 1, 0])).top5 == 1.0


def test_a_unions_balance_is_the_mean_over_its_sets() -> None:
    """Three right of set a, none of one of set b: 0.5, where the plain share is 0.75."""
    logits = torch.eye(4)[torch.tensor([0, 1, 0, 2])]
    found = score(logits, torch.tensor([0, 1, 0, 3]), ["a", "a", "b", "b"])
    assert found.by_source == {"a": 1.0, "b": 0.0}
    assert (found.balanced, found.top1) == (0.5, 0.75)
