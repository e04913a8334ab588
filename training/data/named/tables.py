"""The catalogue for people: a list for the terminal, and the tables of docs/data-sets.md.

`python -m training.data.named.tables docs/data-sets.md` writes the page's tables anew.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from training.data import fashion_mnist
from training.data.named.catalogue import BY_TORCHVISION, CATALOGUE, IMAGES_BY_TORCHVISION
from training.data.named.entry import Entry

HEADINGS = {
    "PGN": "The twelve sets of the PGN paper",
    "ImageNet": "ImageNet-1k and its variants",
    "FGVC": "FGVC: fine-grained sets",
    "VTAB-1k": "VTAB-1k: 19 tasks of 1,000 images",
}
_DOWNLOADED = "downloaded when named"
_BETWEEN_MARKS = re.compile(r"(?<=<!-- tables -->\n).*?(?=<!-- end of tables -->)", re.DOTALL)


def overview(data_dir: Path) -> str:
    """One line a set: name, what it is, and the folder it is at hand in or how it gets there; then the data folder."""
    place = fashion_mnist.at_hand(data_dir)
    known = {
        "digits": "scikit-learn's handwritten digits, 10 classes; at hand, a part of scikit-learn",
        "fashion-mnist": "Fashion-MNIST, 10 classes; " + (_in(place, data_dir) if place else _DOWNLOADED),
    }
    for entry in CATALOGUE.values():
        place = entry.at_hand(data_dir)
        state = _in(place, data_dir) if place else _how_it_comes(entry)
        known[entry.name] = f"{entry.title}, {entry.classes:,} classes; {state}"
    width = max(map(len, known))
    lines = [f"{name.ljust(width)}  {what}" for name, what in known.items()]
    return "\n".join(
        [*lines, f"\nFolders are below {data_dir}; training on a set that is not there says what to put where."]
    )


def _in(place: Path, data_dir: Path) -> str:
    return f"at hand in {place.relative_to(data_dir) if place.is_relative_to(data_dir) else place}"


def _how_it_comes(entry: Entry) -> str:
    if BY_TORCHVISION in entry.get:
        return _DOWNLOADED
    if IMAGES_BY_TORCHVISION in entry.get:
        return "downloaded when named, once its split file is put there by hand"
    return "has to be put there by hand"


def tables() -> str:
    """For each group a table of statistics and a list of how to get the files."""
    return "\n".join(_group(group, heading) for group, heading in HEADINGS.items())


def with_tables(page: str) -> str:
    """The page with the tables of today between its marks."""
    return _BETWEEN_MARKS.sub(lambda _: f"\n{tables()}\n", page)


def _group(group: str, heading: str) -> str:
    entries = [entry for entry in CATALOGUE.values() if entry.group == group]
    return "\n".join(
        [
            f"### {heading}\n",
            "| name | set | classes | train | val | test | splits | class text | mirrored | licence, as far as known |",
            "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
            *map(_row, entries),
            "\nWhere the files come from and go to, below the data folder:\n",
            *(f"- `{entry.name}`: {entry.get.format(folder=entry.folders[0], data='.')}" for entry in entries),
            "",
        ]
    )


def _row(entry: Entry) -> str:
    train = "ImageNet's" if entry.train is None else f"{entry.train:,}"
    val = "a tenth of train" if entry.val is None else f"{entry.val:,}"
    cells = (
        f"`{entry.name}`", entry.title, f"{entry.classes:,}", train, val, f"{entry.test:,}", entry.split,
        entry.template, "yes" if entry.flip else "no", entry.licence,
    )  # fmt: skip
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    page = Path(sys.argv[1])
    page.write_text(with_tables(page.read_text(encoding="utf-8")), encoding="utf-8")
