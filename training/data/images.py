"""Examples to pixels: decoded once, in threads, at the backbone's preprocess, and kept as uint8 while they fit."""

from __future__ import annotations

import hashlib
import logging
import math
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from pgn.backbone_spec import Preprocess
from pgn.errors import DataInvalid, RequestError
from pgn.images import fit_square
from training.data.dataset import SPLITS, Dataset, Example, SplitName
from training.data.frames import Frame, Frames
from training.data.parallel import in_waves

CACHE_LIMIT_BYTES = 2 * 2**30  # for one split in one frame; 43,000 images of 128 x 128. More is decoded as it is used
BAR_AFTER_SECONDS = 2.0  # what is faster shows none
SHOWN_CLASSES = 10  # of those that a warning names; a list of a thousand is no clear line

_log = logging.getLogger(__name__)


class Images:
    """The readable images of one split.

    Args:
        examples: In the split's order.
        preprocess: The backbone's.
        name: What a bar calls them.

    Attributes:
        labels: (M) int64 class indices.
        digest: SHA-256 over those of all images' pixels, in order. Taken while they are decoded: a split that is not
            kept would have to be decoded once more for it.
        names: Of each image, by the SHA-256 of its pixels.
    """

    def __init__(self, examples: Sequence[Example], preprocess: Preprocess, name: str) -> None:
        self.name = name
        self._frame = partial(fit_square, size=preprocess.size, interpolation=preprocess.interpolation)
        shape = (len(examples), preprocess.size, preprocess.size, 3)
        cache = np.empty(shape, np.uint8) if math.prod(shape) <= CACHE_LIMIT_BYTES else None
        readable: list[Example] = []
        digest = hashlib.sha256()
        self.names: dict[bytes, str] = {}
        with ThreadPoolExecutor(os.cpu_count()) as threads:
            decoded = in_waves(threads, self._try_decode, examples)
            bar = tqdm(decoded, name, len(examples), unit="image", delay=BAR_AFTER_SECONDS, disable=None, leave=False)
            for example, pixels in zip(examples, bar, strict=True):
                if pixels is not None:
                    if cache is not None:
                        cache[len(readable)] = pixels
                    readable.append(example)
                    own = hashlib.sha256(pixels.tobytes()).digest()
                    digest.update(own)
                    self.names[own] = example.name
        self.digest = digest.hexdigest()
        self._examples = readable
        self._cache = cache
        self._late = Frames(readable, self._frame, keep=False)
        self.labels = torch.tensor([example.label for example in readable], dtype=torch.int64)

    def __len__(self) -> int:
        return len(self._examples)

    def prefetch(self, indices: Tensor) -> None:
        """Begin to decode the images at these (B) indices, which will be asked for; waits for nothing."""
        if self._cache is None:
            self._late.prefetch(indices)

    def pixels(self, indices: Tensor) -> Tensor:
        """(B) indices -> (B, S, S, 3) uint8."""
        return torch.from_numpy(np.stack(self.take(indices)))

    def take(self, indices: Tensor) -> list[np.ndarray]:
        """The same one by one, as `Frames` has it: B arrays, (S, S, 3) uint8 each, not to be written to."""
        if self._cache is None:
            return self._late.take(indices)
        return [self._cache[index] for index in indices.tolist()]

    def framed(self, frame: Frame) -> Frames:
        """The same images in another frame; kept in memory, once decoded, if all of them fit."""
        first = frame(self._examples[0].read())
        return Frames(self._examples, frame, keep=first.nbytes * len(self) <= CACHE_LIMIT_BYTES)

    def in_parts(self, size: int) -> Iterator[Tensor]:
        """All images in order, (B, S, S, 3) uint8 each, B up to `size`; the next part is decoded during this one."""
        parts = torch.arange(len(self)).split(size)
        for number, part in enumerate(parts):
            self.prefetch(torch.cat(parts[number : number + 2]))
            yield self.pixels(part)

    def _try_decode(self, example: Example) -> np.ndarray | None:
        try:
            return self._frame(example.read())
        except RequestError as error:
            _log.warning("skipped %s: %s", example.name, error.message)
            return None


def warn_of_absent_classes(dataset: Dataset) -> None:
    """One line for each split in which classes have no image: their answers are never looked at there.

    The training split is only spoken of where it may lack classes; elsewhere `load_split` refuses it.
    """
    for split in SPLITS:
        present = {example.label for example in dataset.split(split)}
        absent = [name for label, name in enumerate(dataset.classes) if label not in present]
        if absent and (split != "train" or dataset.may_lack):
            more = f" and {len(absent) - SHOWN_CLASSES} more" if len(absent) > SHOWN_CLASSES else ""
            names = ", ".join(absent[:SHOWN_CLASSES])
            _log.warning("%s, %s: no image of %s%s", dataset.name, split, names, more)


def warn_of_shared(dataset: Dataset, asked: Images, split: SplitName, **others: Images) -> None:
    """One line for each other split that holds pictures of `asked`, the images of that split, as the ViT sees them.

    Within one set that is its maker's doing; in a union the split of one set may hold another's training images.

    Args:
        dataset: The set.
        asked: Images that are to be answered.
        split: Theirs.
        others: Images that were learned or chosen with, by the word for them: training, validation.
    """
    for what, known in others.items():
        if shared := [asked.names[digest] for digest in asked.names.keys() & known.names.keys()]:
            names = ", ".join(sorted(shared)[:SHOWN_CLASSES])
            _log.warning(
                "%s, %s: %d of %d pictures are %s images too, so its accuracy is too good: %s%s",
                *(dataset.name, split, len(shared), len(asked), what, names),
                ", …" if len(shared) > SHOWN_CLASSES else "",
            )


def require_a_readable_image(dataset: Dataset, split: SplitName) -> None:
    """Find out before a training that the split it ends with can be asked at all; reads up to the first good image.

    Raises:
        DataInvalid: It cannot.
    """
    reason = ""
    for example in dataset.split(split):
        try:
            example.read()
        except RequestError as error:
            reason = reason or f"{example.name}: {error.message}"
            continue
        return
    raise _no_image(dataset, split, reason)


def _no_image(dataset: Dataset, split: SplitName, reason: str = "") -> DataInvalid:
    hint = (
        f"the first one, {reason}" if reason else "the warnings above say why" if dataset.split(split) else "add some"
    )
    return DataInvalid(f"{dataset.name}: the {split} split has no readable image", hint=hint)


def load_split(dataset: Dataset, split: SplitName, preprocess: Preprocess) -> Images:
    """The split's images; those that cannot be read are skipped, each with a warning, and counted.

    Raises:
        DataInvalid: A class has no readable image in the training split, unless the set may lack some there; or the
            split has no readable image at all.
    """
    examples = dataset.split(split)
    needed = set(range(len(dataset.classes))) - dataset.may_lack if split == "train" else set()
    if absent := needed - {example.label for example in examples}:
        raise DataInvalid(
            f"{dataset.name}: class {dataset.classes[min(absent)]!r} has no training image",
            hint="add images to it, or take the class out",
        )
    images = Images(examples, preprocess, f"{dataset.name}, {split}")
    if skipped := len(examples) - len(images):
        _log.warning("%s, %s: %d of %d images could not be read", dataset.name, split, skipped, len(examples))
    if damaged := needed - set(images.labels.tolist()):
        raise DataInvalid(
            f"{dataset.name}: class {dataset.classes[min(damaged)]!r} has no readable training image",
            hint="the warnings above say why",
        )
    if not len(images):
        raise _no_image(dataset, split)
    sources = dataset.class_sources if split == "train" else None
    if sources and (silent := set(sources) - {sources[label] for label in images.labels.tolist()}):
        raise DataInvalid(
            f"{dataset.name}: {min(silent)} has no readable training image",
            hint="leave that set out, or mend its images",
        )
    return images
