"""What a run reads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pgn.errors import DataInvalid
from training import setting
from training.config import TrainConfig, open_images
from training.data.frames import stretched, strip
from training.heads import start_head
from training.setting import prepare


def test_one_class_is_refused(make_config: Callable[..., TrainConfig], monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever the images come from; the probe could not be fitted."""
    whole = open_images(make_config())
    zeros = {split: tuple(e for e in getattr(whole, split) if e.label == 0) for split in ("train", "val", "test")}
    monkeypatch.setattr(setting, "open_images", lambda _: replace(whole, classes=("0",), **zeros))
    with pytest.raises(DataInvalid, match="digits has one class only"):
        prepare(make_config())


def test_a_class_that_may_be_absent_from_train_gets_a_row_that_never_wins(
    make_config: Callable[..., TrainConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in VTAB's list of SUN397; the head that learns starts there too."""
    whole = open_images(make_config())
    without = tuple(example for example in whole.train if example.label != 3)
    monkeypatch.setattr(setting, "open_images", lambda _: replace(whole, train=without, may_lack=frozenset(range(10))))
    found = prepare(make_config())
    head = start_head(found)
    features = torch.randn(1000, found.backbone.num_features)
    assert head(features).shape == (1000, 10)
    assert 3 not in head(features).argmax(1)


def test_a_class_that_is_never_tested_is_said_before_training(
    make_config: Callable[..., TrainConfig], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Hours later it would be too late."""
    whole = open_images(make_config())
    without = tuple(example for example in whole.test if example.label != 3)
    monkeypatch.setattr(setting, "open_images", lambda _: replace(whole, test=without))
    prepare(make_config())
    assert caplog.messages == ["digits, test: no image of 3"]


def test_the_probe_is_fitted_on_what_the_config_leaves(make_config: Callable[..., TrainConfig]) -> None:
    """Five images of each of ten digits."""
    found = prepare(make_config())
    assert len(found.train) == 50
    assert found.probe.weight.shape == (10, found.backbone.num_features)


def test_the_probe_is_fitted_once_for_the_same_images(
    make_config: Callable[..., TrainConfig], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Of a large set that takes longer than an epoch, and every process of a run asks for it."""
    config = make_config(cache=tmp_path / "cache")
    probe = prepare(config).probe
    with monkeypatch.context() as patch:
        patch.setattr(setting, "fit_probe", lambda *_, **__: pytest.fail("fitted again"))
        again = prepare(config).probe
    assert torch.equal(again.weight, probe.weight)
    assert (again.strength, again.images) == (probe.strength, probe.images)
    whole = open_images(config)
    turned = tuple(replace(example, label=9 - example.label) for example in whole.train)
    monkeypatch.setattr(setting, "open_images", lambda _: replace(whole, train=turned))
    assert not torch.equal(prepare(config).probe.weight, probe.weight)


def test_only_the_papers_augmentation_leaves_servings_squares(
    make_config: Callable[..., TrainConfig], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It stretches images, and takes CLEVR's whole; whatever is compared and validated sees centre squares."""
    rng = np.random.default_rng(0)
    for number in range(10):
        path = tmp_path / "wide" / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (40, 60, 3), np.uint8)).save(path)
    wide = {"dataset": [f"folder:{tmp_path / 'wide'}"], "limit": None}
    first = torch.tensor([0])
    small, paper = (prepare(make_config(augment=kind, **wide)) for kind in ("small", "paper"))
    image, size = small.dataset.train[0].read(), small.backbone.spec.preprocess.size
    assert small.frames is small.train
    assert torch.equal(paper.train.pixels(first), small.train.pixels(first))
    assert np.array_equal(paper.frames.take(first)[0], stretched(image, size))
    scenes = replace(paper.dataset, upside_down=True)
    monkeypatch.setattr(setting, "open_images", lambda _: scenes)
    (scene,) = prepare(make_config(augment="paper", **wide)).frames.take(first)
    assert np.array_equal(scene, strip(image, size))
