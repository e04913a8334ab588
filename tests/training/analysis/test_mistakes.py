"""Where a bundle errs."""

from __future__ import annotations

import torch

from training.analysis.mistakes import class_accuracies, most_confused, surest_mistakes

CONFUSION = torch.tensor([[8, 2, 0], [1, 4, 5], [0, 0, 0]])


def test_a_class_without_images_has_no_accuracy() -> None:
    """It is not 0 either."""
    assert class_accuracies(CONFUSION) == [0.8, 0.4, None]


def test_the_most_frequent_confusion_comes_first() -> None:
    """Right answers are none."""
    assert most_confused(CONFUSION, 2) == [(1, 2, 5), (0, 1, 2)]
    assert most_confused(CONFUSION, 9)[-1] == (1, 0, 1)


def test_the_surest_mistake_comes_first() -> None:
    """Images 0 and 2 are wrong, 2 with more confidence; 1 is right."""
    probabilities = torch.tensor([[0.6, 0.4], [0.99, 0.01], [0.1, 0.9]])
    found = surest_mistakes(probabilities, torch.tensor([1, 0, 0]), 5)
    assert [(m.image, m.label, m.answer) for m in found] == [(2, 0, 1), (0, 1, 0)]
    assert len(surest_mistakes(probabilities, torch.tensor([1, 0, 0]), 1)) == 1
