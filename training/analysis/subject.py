"""A bundle that is looked into: opened on its backbone, with the images of the split it is asked about."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from pgn.bundle import Bundle, read_bundle
from pgn.errors import UsageError
from pgn.method.backbone import load_backbone
from pgn.method.predictor import Predictor
from training.config import TrainConfig, moved, open_images
from training.data.dataset import Dataset, SplitName
from training.data.images import Images, load_split
from training.features import EVAL_BATCH
from training.run import config_of_bundle


@dataclass(frozen=True)
class Subject:
    """What an analysis looks at.

    Attributes:
        bundle: As read.
        config: Of the run that made it.
        predictor: It on its backbone.
        dataset: The images it was trained on.
        split: Which of them it is asked about.
        images: Those.
    """

    bundle: Bundle
    config: TrainConfig
    predictor: Predictor
    dataset: Dataset
    split: SplitName
    images: Images

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes."""
        return self.bundle.manifest.classes

    def probabilities(self) -> Tensor:
        """(M, C) float32 of all images, calibrated: what the service answers."""
        return torch.cat([self.predictor.probabilities(part).cpu() for part in self.images.in_parts(EVAL_BATCH)])


def open_subject(
    path: Path, *, backbone: Path | None = None, split: SplitName = "test", data_dir: Path | None = None
) -> Subject:
    """Open the bundle file at `path` with its backbone and images.

    Args:
        path: A bundle made by training, so one that says on what.
        backbone: Folder of the frozen ViT, if it has moved.
        split: Which images to look at.
        data_dir: Folder of the images, if they have moved: of named sets, and of files and folders by their last names.

    Raises:
        UsageError: The bundle does not say how it was trained, or its data set has other classes today.
        PgnError: What reading bundle, backbone and images raises.
    """
    bundle = read_bundle(path)
    config = moved(config_of_bundle(bundle), backbone=backbone, data_dir=data_dir)
    dataset = open_images(config)
    if dataset.classes != bundle.manifest.classes:
        raise UsageError(
            f"{path.name} knows other classes than {', '.join(config.dataset)} has today",
            hint="put the images back as they were",
        )
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    predictor = Predictor(load_backbone(config.backbone, device), bundle)
    images = load_split(dataset, split, predictor.backbone.spec.preprocess)
    return Subject(bundle, config, predictor, dataset, split, images)
