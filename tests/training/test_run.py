"""A run's folder."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from pgn.errors import ArtefactError, SetupError, UsageError
from tests.toys import write_images
from training.config import TrainConfig, open_images
from training.run import Progress, RunFolder, config_of_run
from training.scores import Scores


def _scores(balanced: float, loss: float) -> Scores:
    return Scores(images=10, top1=balanced, top5=1.0, loss=loss, balanced=balanced)


def _claimed(config: TrainConfig) -> RunFolder:
    folder = RunFolder(config, open_images(config))
    folder.claim()
    return folder


def test_the_best_epoch_is_kept_and_ties_go_to_the_lower_loss() -> None:
    """Validation accuracy is coarse on few images; the loss tells equal ones apart."""
    model, progress = nn.Linear(1, 1), Progress()
    for number, (accuracy, loss) in enumerate([(0.5, 1.0), (0.8, 0.9), (0.8, 0.7), (0.8, 0.8), (0.6, 0.1)]):
        model.bias.data.fill_(number)
        progress.close_epoch(_scores(accuracy, loss), model, seconds=1.0)
    assert progress.best_epoch == 3
    assert progress.best["bias"].item() == 2.0


def test_a_damaged_checkpoint_is_named(make_config: Callable[..., TrainConfig]) -> None:
    """With what to do; it is never passed over in silence."""
    config = make_config()
    folder = _claimed(config)
    (config.out / "checkpoint.pt").write_bytes(b"nonsense")
    model = nn.Linear(1, 1)
    with pytest.raises(ArtefactError, match=r"checkpoint\.pt cannot be resumed from.*delete it"):
        folder.resume(model, torch.optim.AdamW(model.parameters()), {})


def test_options_that_came_later_were_at_their_defaults(make_config: Callable[..., TrainConfig]) -> None:
    """A run begun with an earlier version is gone on with, unless a newer option is asked for."""
    config = make_config()
    _claimed(config)
    file = config.out / "config.json"
    there = json.loads(file.read_text())
    del there["recipe"]["encoder_first"], there["compile"], there["start_from"]
    file.write_text(json.dumps(there))
    RunFolder(config, open_images(config))
    with pytest.raises(UsageError, match="encoder_first 0 there, 9 here"):
        RunFolder(make_config(encoder_first=9), open_images(config))


def test_a_run_goes_on_where_the_images_lie_elsewhere(make_config: Callable[..., TrainConfig], tmp_path: Path) -> None:
    """On another machine: which images they are is told by their list, and the cache decides nothing."""
    config = make_config()
    _claimed(config)
    elsewhere = {"data_dir": tmp_path / "elsewhere", "cache": tmp_path / "other"}
    RunFolder(config.model_copy(update=elsewhere), open_images(config))


def test_what_a_checkpoint_was_made_with_has_to_be_there_still(make_config: Callable[..., TrainConfig]) -> None:
    """Weights of the backbone and pixels are no part of the config, and decide every step."""
    folder, model = _claimed(make_config()), nn.Linear(1, 1)
    optimizer = torch.optim.AdamW(model.parameters())
    folder.save(Progress(step=3), model, optimizer, {"backbone": "a", "train": "b", "val": "c"})
    assert folder.resume(model, optimizer, {"backbone": "a", "train": "b", "val": "c"}).step == 3
    with pytest.raises(UsageError, match="changed: the backbone is another, other validation images"):
        folder.resume(model, optimizer, {"backbone": "x", "train": "b", "val": "x"})


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"recipe": 3}'])
def test_a_damaged_config_is_named(make_config: Callable[..., TrainConfig], text: str) -> None:
    """By whoever goes on with the run, and by whoever asks what it was."""
    config = make_config()
    _claimed(config)
    (config.out / "config.json").write_text(text)
    with pytest.raises(ArtefactError, match=r"config\.json is no config of a run"):
        RunFolder(config, open_images(config))
    with pytest.raises(ArtefactError, match=r"config\.json is no config of a run"):
        config_of_run(config.out)


def test_a_folder_that_cannot_be_made_is_named(make_config: Callable[..., TrainConfig], tmp_path: Path) -> None:
    """Here --out lies below a file."""
    (tmp_path / "file").write_text("")
    config = make_config(out=tmp_path / "file" / "run")
    with pytest.raises(SetupError, match=r"cannot be written: Not a directory"):
        RunFolder(config, open_images(config))


class TestImages:
    """Two classes of ten pictures: 14 learn, 2 validate, 4 test."""

    @pytest.fixture
    def config(self, make_config: Callable[..., TrainConfig], class_folders: Path) -> TrainConfig:
        config = make_config(dataset=[f"folder:{class_folders}"], limit=None)
        _claimed(config)
        return config

    def test_the_same_images_are_gone_on_with(self, config: TrainConfig) -> None:
        """As often as anybody likes."""
        RunFolder(config, open_images(config))

    def test_added_images_are_refused_with_their_number(self, config: TrainConfig, class_folders: Path) -> None:
        """They would deal out other splits, and other steps."""
        write_images(class_folders / "cat" / "more", 5, seed=3)
        expected = (
            f"the images of {config.out} have changed since it was begun: train 14 -> 17, val 2 -> 3, test 4 -> 5"
        )
        with pytest.raises(UsageError, match=re.escape(expected)) as raised:
            RunFolder(config, open_images(config))
        assert raised.value.hint == "give another --out, or delete it"

    def test_a_new_class_is_named(self, config: TrainConfig, class_folders: Path) -> None:
        """Its images have labels that the head of the old run does not know."""
        write_images(class_folders / "bird", 10, seed=3)
        with pytest.raises(UsageError, match=r"train 14 -> 21, val 2 -> 3, test 4 -> 6, classes \+bird \("):
            RunFolder(config, open_images(config))

    def test_as_many_others_are_refused_too(self, config: TrainConfig, class_folders: Path) -> None:
        """Renamed: no number has changed, but the order of the images has."""
        for number in range(10):
            (class_folders / "cat" / f"{number}.png").rename(class_folders / "cat" / f"new-{number}.png")
        with pytest.raises(UsageError, match=r"begun: other images in train, other images in val, other"):
            RunFolder(config, open_images(config))

    def test_a_run_that_never_wrote_them_down_is_gone_on_with(self, config: TrainConfig, class_folders: Path) -> None:
        """It was begun by an earlier version; what it has seen cannot be known any more."""
        (config.out / "images.json").unlink()
        (class_folders / "cat" / "0.png").unlink()
        RunFolder(config, open_images(config))

    def test_a_damaged_list_is_named(self, config: TrainConfig) -> None:
        """Never passed over."""
        (config.out / "images.json").write_text("{")
        with pytest.raises(ArtefactError, match=r"images\.json is no list of a run's images"):
            RunFolder(config, open_images(config))
