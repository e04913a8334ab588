"""What a trained method answers to the images of a split, whether it is served or only compared."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from pgn.errors import UsageError
from training.analysis.subject import Subject
from training.calibration import fit_temperature
from training.config import moved
from training.data.dataset import SplitName
from training.data.images import Images, load_split
from training.export import load_weights
from training.result import WEIGHTS_FILE
from training.run import config_of_run, images_of_run
from training.scores import logits_of
from training.setting import prepare


@dataclass(frozen=True)
class Answers:
    """Answers to M images.

    Attributes:
        images: Those.
        classes: Names of the C classes.
        probabilities: (M, C) float32, at the temperature that fits validation.
    """

    images: Images
    classes: tuple[str, ...]
    probabilities: Tensor


def answers_of(subject: Subject) -> Answers:
    """Of a bundle: what the service answers."""
    return Answers(subject.images, subject.classes, subject.probabilities())


def answers_of_run(
    folder: Path, *, backbone: Path | None = None, split: SplitName = "test", data_dir: Path | None = None
) -> Answers:
    """Of the run in `folder`, whose method is not served; its temperature is fitted here, as a bundle's is in training.

    Args:
        folder: Of a finished run.
        backbone: Folder of the frozen ViT, if it has moved.
        split: Which images to ask about.
        data_dir: Folder of the images, if they have moved.

    Raises:
        UsageError: Its data set has other classes today.
        PgnError: What reading weights, backbone and images raises.
    """
    setting = prepare(moved(config_of_run(folder), backbone=backbone, data_dir=data_dir))
    classes = setting.dataset.classes
    if (known := images_of_run(folder)) and known.classes != classes:
        raise UsageError(
            f"{folder} knows other classes than {setting.dataset.name} has today",
            hint="put the images back as they were",
        )
    model = load_weights(setting, folder / WEIGHTS_FILE)
    head = model.head.plain()
    images = load_split(setting.dataset, split, setting.backbone.spec.preprocess)
    fitted_on, asked = (logits_of(setting.backbone, model.adapter, head, each) for each in (setting.val, images))
    return Answers(images, classes, (asked / fit_temperature(fitted_on, setting.val.labels)).softmax(1))
