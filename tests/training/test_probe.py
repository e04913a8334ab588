"""The linear probe equals scikit-learn's, as a plain head."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from training import probe as module
from training.probe import STRENGTHS, fit_probe


def _blobs(num_classes: int, count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Overlapping clouds whose features differ in scale and offset; the last one does not vary."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(count) % num_classes)
    centres = np.random.default_rng(0).normal(size=(num_classes, 6)) * 1.5
    rows = (centres[labels] + rng.normal(size=(count, 6))) * [1, 10, 100, 0.1, 1, 1] + [0, 5, -300, 2, 0, 0]
    rows = np.concatenate([rows, np.full((count, 1), 3.0)], axis=1)
    return torch.from_numpy(rows).float(), torch.from_numpy(labels)


@pytest.mark.parametrize("num_classes", [2, 3, 7])
def test_the_folded_head_answers_as_scikit_learn_does(num_classes: int) -> None:
    """Standardisation is folded into weight and bias; also for two classes, where scikit-learn keeps one row."""
    train, labels = _blobs(num_classes, 210, 1)
    probe = fit_probe(train, labels, *_blobs(num_classes, 70, 2), num_classes=num_classes)
    scaler = StandardScaler().fit(train.double())
    theirs = LogisticRegression(C=probe.strength, max_iter=300).fit(scaler.transform(train.double()), labels)
    rows, _ = _blobs(num_classes, 50, 3)
    ours = probe.head()(rows).softmax(1).numpy()
    assert np.abs(ours - theirs.predict_proba(scaler.transform(rows.double()))).max() < 1e-4


def test_validation_chooses_the_strength() -> None:
    """The one that scikit-learn, asked with each, finds best on the validation images."""
    (train, labels), (val, val_labels) = _blobs(7, 60, 1), _blobs(7, 700, 2)
    scaler = StandardScaler().fit(train.double())
    theirs = [
        LogisticRegression(C=strength, max_iter=300)
        .fit(scaler.transform(train.double()), labels)
        .score(scaler.transform(val.double()), val_labels)
        for strength in STRENGTHS
    ]
    best = STRENGTHS[int(np.argmax(theirs))]
    assert best not in (STRENGTHS[0], STRENGTHS[-1]), "or nothing would be chosen"
    assert fit_probe(train, labels, val, val_labels, num_classes=7).strength == best


def test_of_equal_strengths_the_strongest_regularisation_is_taken() -> None:
    """Of equal ones the strongest regularisation: with clear-cut classes, the smallest C."""
    rows = torch.tensor([[-1.0], [1.0]]).repeat(20, 1)
    labels = torch.tensor([0, 1]).repeat(20)
    assert fit_probe(rows, labels, rows, labels, num_classes=2).strength == STRENGTHS[0]


@pytest.mark.parametrize("present", [[0, 2, 3], [1, 4]])
def test_a_class_without_training_images_never_wins(present: list[int]) -> None:
    """Not even far from all training images, where a fixed low score would; the other rows are as if it were not."""
    rows, labels = _blobs(5, 300, 1)
    chosen = torch.isin(labels, torch.tensor(present))
    seen, numbers = rows[chosen], torch.searchsorted(torch.tensor(present), labels[chosen])
    probe = fit_probe(seen, labels[chosen], seen, labels[chosen], num_classes=5)
    alone = fit_probe(seen, numbers, seen, numbers, num_classes=len(present))
    assert torch.equal(probe.weight[present], alone.weight)
    assert torch.equal(probe.bias[present], alone.bias)
    assert probe.weight.sum(0).abs().max() < 1e-5
    for scale in (1.0, 1e3):
        assert set(probe.head()(rows * scale).argmax(1).tolist()) <= set(present)


def test_of_very_many_images_a_share_of_every_class_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Always the same ones; a rare class keeps an image, and what it was fitted on is told."""
    rows, labels = _blobs(3, 300, 1)
    kept = (labels != 2) | (torch.arange(300) < 4)  # one of the third class
    rows, labels = rows[kept], labels[kept]
    assert fit_probe(rows, labels, rows, labels, num_classes=3).images == len(rows)
    monkeypatch.setattr(module, "MOST_IMAGES", 41)
    few, again = (fit_probe(rows, labels, rows, labels, num_classes=3) for _ in range(2))
    assert few.images == 41
    assert torch.equal(few.weight, again.weight)
    assert few.weight[2].abs().max() > 0
    assert (few.head()(rows).argmax(1) == labels).double().mean() > 0.6
