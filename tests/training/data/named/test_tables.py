"""The page of data sets is written from the catalogue."""

from __future__ import annotations

from pathlib import Path

from training.data.digits import digits
from training.data.named.catalogue import CATALOGUE
from training.data.named.tables import overview, with_tables
from training.data.registry import NAMES

PAGE = Path(__file__).resolve().parents[4] / "docs" / "data-sets.md"


def test_the_page_is_what_the_catalogue_says() -> None:
    """`make docs` writes it anew; a changed table without it fails here."""
    page = PAGE.read_text(encoding="utf-8")
    assert with_tables(page) == page
    assert all(f"| `{name}` |" in page for name in CATALOGUE)


def test_the_readme_and_the_changelog_count_the_names_right() -> None:
    """As many as `pgn data list` prints."""
    root = PAGE.parents[1]
    assert f"one of {len(NAMES)} data sets by name" in (root / "README.md").read_text(encoding="utf-8")
    assert len(NAMES) == 43
    assert "- Forty-three data sets by name" in (root / "CHANGELOG.md").read_text(encoding="utf-8")


def test_the_page_says_truly_what_is_downloaded() -> None:
    """Every set of the sentence, and no other."""
    fetched = {
        name
        for name, entry in CATALOGUE.items()
        if "torchvision downloads it" in entry.get or "downloaded by" in entry.get
    }
    sources = {"cifar", "svhn", "flowers", "eurosat", "pets", "dtd"}
    assert all(any(source in name for source in sources) for name in fetched)
    assert all(any(source in name for name in fetched) for source in sources)
    page = " ".join(PAGE.read_text(encoding="utf-8").split())
    assert "CIFAR, SVHN, Flowers, EuroSAT, Pets and DTD, each below 1 GB, are downloaded by torchvision" in page


def test_the_page_has_the_true_numbers_of_digits() -> None:
    """They stand in the page by hand, as the set is no file of ours."""
    found = digits()
    assert f"| {len(found.train):,} | {len(found.val)} | {len(found.test)} |" in PAGE.read_text(encoding="utf-8")


def test_the_overview_tells_what_is_at_hand(tmp_path: Path) -> None:
    """Whoever looks for a name also sees where its files are. An empty folder, as a failed download leaves it, is none,
    and of VTAB's 19 tasks only the one whose lists are there is."""
    for empty in ("cifar10", "svhn", "oxford_pets", "vtab-1k/cifar"):
        (tmp_path / empty).mkdir(parents=True)
    for file in ("oxford_pets/split_zhou_OxfordPets.json", "vtab-1k/kitti/train800.txt"):
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).touch()
    lines = overview(tmp_path).splitlines()
    assert len(lines) == len(CATALOGUE) + 2
    found = {line.split()[0]: line.partition("; in ")[2] for line in lines if "; in " in line}
    assert found == {
        "oxford-pets": str(tmp_path / "oxford_pets"),
        "vtab-kitti-distance": str(tmp_path / "vtab-1k"),
    }
