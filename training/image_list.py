"""Which images a run is of: their names and labels, so that it is never gone on with on others.

Nothing is decoded, and nothing depends on the place: a run's folder may go to another machine, where the images lie
elsewhere. A picture that is replaced under its name is noticed by the checkpoint, which holds a digest of the pixels.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from pydantic import BaseModel, ConfigDict
from typing_extensions import Self

from training.data.dataset import SPLITS, Dataset, Example, SplitName


class ImageList(BaseModel):
    """The images of a run, as its folder keeps them.

    Attributes:
        classes: Names of the classes, in the order of the labels.
        counts: Images listed, by split; some of them may be unreadable.
        digests: SHA-256 over names and labels of a split's images, in their order: it decides the batches.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    classes: tuple[str, ...]
    counts: dict[SplitName, int]
    digests: dict[SplitName, str]

    @classmethod
    def of(cls, dataset: Dataset) -> Self:
        """The list of that set."""
        splits = {split: dataset.split(split) for split in SPLITS}
        return cls(
            classes=dataset.classes,
            counts={split: len(examples) for split, examples in splits.items()},
            digests={split: _digest(examples) for split, examples in splits.items()},
        )

    def changes(self, now: ImageList) -> list[str]:
        """What is different in `now`, each in a few words; empty if nothing is."""
        found = []
        for split in SPLITS:
            before, after = self.counts[split], now.counts[split]
            if before != after:
                found.append(f"{split} {before} -> {after}")
            elif self.digests[split] != now.digests[split]:
                found.append(f"other images in {split}")
        if self.classes != now.classes:
            new = [f"+{name}" for name in now.classes if name not in self.classes]
            gone = [f"-{name}" for name in self.classes if name not in now.classes]
            found.append(f"classes {_few([*new, *gone]) or 'in another order'}")
        return found


def _digest(examples: Iterable[Example]) -> str:
    digest = hashlib.sha256()
    for example in examples:  # a file's name need not be UTF-8, and holds no NUL
        digest.update(f"{example.label}\0{example.name}\0".encode(errors="surrogatepass"))
    return digest.hexdigest()


def _few(names: list[str]) -> str:
    """The first names and how many there are: a list of a thousand is no clear line."""
    return " ".join(names[:10]) + (f" … ({len(names)})" if len(names) > 10 else "")
