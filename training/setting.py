"""What stays the same during a run: config, images, frozen backbone, and the linear probe as start and yardstick."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import torch
from torch import Tensor

from pgn.bundle import Bundle, read_bundle
from pgn.errors import DataInvalid, UsageError
from pgn.method.backbone import FrozenBackbone, load_backbone
from training.cache import kept
from training.config import TrainConfig, is_first_process, open_images
from training.data.dataset import Dataset
from training.data.frames import Frames, stretched, strip
from training.data.images import Images, load_split, require_a_readable_image, warn_of_absent_classes, warn_of_shared
from training.features import plain_features
from training.methods import METHODS
from training.probe import FITTED_AS, LinearProbe, fit_probe
from training.result import finished_bundle
from training.run import best_so_far
from training.scores import Scores, score
from training.unfinished import as_bundle

PATCH_IMAGES = 256


@dataclass(frozen=True)
class Setting:
    """Everything a run reads; `probe_val` is the linear probe's validation."""

    config: TrainConfig
    dataset: Dataset
    backbone: FrozenBackbone
    device: torch.device
    train: Images
    val: Images
    probe: LinearProbe
    probe_val: Scores

    @property
    def flip(self) -> bool:
        """Whether images are mirrored at random."""
        return self.dataset.flip if self.config.flip is None else self.config.flip

    @property
    def upside_down(self) -> bool:
        """Whether the paper's augmentation also turns images upside down."""
        return self.flip and self.dataset.upside_down

    @cached_property
    def frames(self) -> Images | Frames:
        """The training images as a step's augmentation takes them: centre squares, or what the paper trains on."""
        if self.config.augment != "paper":
            return self.train
        frame = strip if self.dataset.upside_down else stretched  # the paper crops CLEVR along its longer side
        return self.train.framed(partial(frame, size=self.backbone.spec.preprocess.size))

    @property
    def template(self) -> str | None:
        """The sentence that names a class; None for a union of sets that have several."""
        own = {text.template for text in self.dataset.class_texts}
        return self.config.template or (own.pop() if len(own) == 1 else None)

    @cached_property
    def starts(self) -> tuple[Bundle, ...]:
        """The bundles to go on from, of which the later goes over the earlier.

        Raises:
            UsageError: A folder without a run, of one whose method makes no bundle, or without a finished epoch.
            BundleIncompatible: A bundle of another backbone.
            ArtefactError: What else reading a bundle raises.
        """
        return tuple(_start(path, self.backbone) for path in self.config.start_from)

    def groups(self) -> Tensor:
        """(M) int64 number of the data set that each training image comes from; all 0 without a union."""
        sources = self.dataset.class_sources or ("",) * len(self.dataset.classes)
        numbers = {source: number for number, source in enumerate(dict.fromkeys(sources))}
        return torch.tensor([numbers[source] for source in sources])[self.train.labels]

    @torch.no_grad()
    def patches(self) -> Tensor:
        """(M, D) patch tokens with positions, of up to `PATCH_IMAGES` training images, on the CPU."""
        chosen = torch.linspace(0, len(self.train) - 1, min(PATCH_IMAGES, len(self.train))).long()
        tokens = self.backbone.embed(self.backbone.normalise(self.train.pixels(chosen)))
        own = self.backbone.grid**2
        return tokens[:, -own:].flatten(0, 1).cpu()


def prepare(config: TrainConfig, device: torch.device | None = None, dataset: Dataset | None = None) -> Setting:
    """Load the backbone, decode training and validation images, fit the probe; raises as `train` does.

    Without `device`, CUDA's first if there is one; without `dataset`, what the config opens.
    """
    device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
    backbone = load_backbone(config.backbone, device)
    METHODS[config.method].check(config, backbone)
    dataset = dataset or open_images(config)
    if len(dataset.classes) < 2:
        raise DataInvalid(f"{dataset.name} has one class only", hint="a classifier needs two or more")
    if is_first_process():
        warn_of_absent_classes(dataset)
    train, val = (load_split(dataset, split, backbone.spec.preprocess) for split in ("train", "val"))
    require_a_readable_image(dataset, "test")
    if is_first_process():
        warn_of_shared(dataset, val, "val", training=train)
    features = plain_features(backbone, val, config.cache)
    learned = plain_features(backbone, train, config.cache)

    def fit() -> dict[str, Tensor]:
        probe = fit_probe(learned, train.labels, features, val.labels, num_classes=len(dataset.classes))
        return probe.to_tensors()

    seen = repr((FITTED_AS, backbone.digest, train.digest, val.digest, dataset.classes)).encode()
    labels = torch.cat([train.labels, val.labels]).numpy().tobytes()
    probe = LinearProbe.from_tensors(kept(config.cache, seen + labels, fit))
    probe_val = score(probe.head()(features), val.labels, dataset.class_sources)
    return Setting(config, dataset, backbone, device, train, val, probe, probe_val)


def require_starts(config: TrainConfig) -> None:
    """Before any image is decoded: what the run is to go on from is there.

    Raises:
        UsageError: It is not.
    """
    for path in config.start_from:
        if not path.exists():
            raise UsageError(f"--start-from {path} does not exist", hint="give a bundle's file, or the folder of a run")


def _start(path: Path, backbone: FrozenBackbone) -> Bundle:
    """The bundle that `path` names: a file, that of the run in this folder, or what the run has come to so far."""
    if not path.is_dir():
        return read_bundle(path, backbone=backbone.digest)
    if file := finished_bundle(path):
        return read_bundle(file, backbone=backbone.digest)
    if found := best_so_far(path):
        return as_bundle(found, backbone)
    raise UsageError(f"{path} is no folder of a run with a bundle", hint="give a bundle's file")
