"""The page of data sets is written from the catalogue."""

from __future__ import annotations

from pathlib import Path

import pytest

from training.data.digits import digits
from training.data.fashion_mnist import FILES
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


@pytest.fixture
def no_debian_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fashion-MNIST is not at hand, whatever is installed on this machine."""
    monkeypatch.setattr("training.data.fashion_mnist.DEBIAN_FOLDER", Path("no/such/folder"))


@pytest.mark.usefixtures("no_debian_package")
def test_the_overview_tells_what_is_at_hand(tmp_path: Path) -> None:
    """Whoever looks for a name also sees where its files are. An empty folder is none, and of VTAB's 19 tasks only the
    one whose lists are there is."""
    for empty in ("cifar10", "svhn", "oxford_pets", "vtab-1k/cifar"):
        (tmp_path / empty).mkdir(parents=True)
    for file in ("oxford_pets/split_zhou_OxfordPets.json", "vtab-1k/kitti/train800.txt"):
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).touch()
    *lines, _, last = overview(tmp_path).splitlines()
    assert len(lines) == len(CATALOGUE) + 2
    found = {line.split()[0]: line.partition("; at hand in ")[2] for line in lines if "; at hand in " in line}
    assert found == {"oxford-pets": "oxford_pets", "vtab-kitti-distance": "vtab-1k"}
    assert last.startswith(f"Folders are below {tmp_path};")


@pytest.mark.usefixtures("no_debian_package")
def test_the_overview_tells_how_the_others_get_there(tmp_path: Path) -> None:
    """Some are named and wait; for others there is work to do first."""
    states = {line.split()[0]: line.rpartition("; ")[2] for line in overview(tmp_path).splitlines() if "; " in line}
    named = {name for name, state in states.items() if state == "downloaded when named"}
    assert named == {
        *("fashion-mnist", "cifar10", "cifar100", "svhn", "fgvc-flowers"),
        *(f"vtab-{name}" for name in ("cifar100", "dtd", "flowers102", "pets", "svhn", "eurosat")),
    }
    half = {name for name, state in states.items() if "once its split file is put there" in state}
    assert half == {"flowers102", "eurosat", "oxford-pets", "dtd"}
    assert states["digits"].startswith("at hand")
    assert states["imagenet"] == "has to be put there by hand"


def test_the_overview_finds_fashion_mnist_where_training_does(tmp_path: Path) -> None:
    """In the data folder itself, or in its own."""
    (tmp_path / "fashion-mnist").mkdir()
    for name in sum(FILES.values(), ()):
        (tmp_path / "fashion-mnist" / name).touch()
    assert "Fashion-MNIST, 10 classes; at hand in fashion-mnist\n" in overview(tmp_path)
