"""ImageNet-1k and the four sets that test its classifiers elsewhere: -A, -R, V2 and Sketch.

The four have test images only, so their training and validation images are ImageNet's: a classifier is trained there
and looked at here. -A and -R cover 200 classes, and everything about them is restricted to these.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

from training.data.dataset import Example
from training.data.named.parts import Parts, file_examples, first_folder

# CLIP's list calls two pairs of classes by one name; these are WordNet's names for one of each pair.
_RENAMED = {"n04008634": "projectile", "n04355933": "sunglass"}


def imagenet(folder: Path) -> Parts:
    """ImageNet-1k: `train/<synset>/`, and as test images `val/<synset>/`; class names are CLIP's."""
    root = _root(folder)
    synsets = _folders(root / "train")
    return _parts(root, synsets, root / "val", synsets)


def imagenet_variant(folder: Path, *, images: tuple[str, ...], subset: bool) -> Parts:
    """The test images in synset folders below `folder`, and ImageNet's training images from `../imagenet`.

    Args:
        folder: Of the variant.
        images: Folders in it where the synset folders may lie; the first that exists is taken.
        subset: Whether ImageNet is restricted to the classes that the variant has.
    """
    tested = first_folder(folder, images)
    root = _root(folder.parent / "imagenet")
    synsets = _folders(root / "train")
    if subset:
        synsets = [synset for synset in synsets if (tested / synset).is_dir()]
    return _parts(root, synsets, tested, synsets)


def imagenet_v2(folder: Path) -> Parts:
    """ImageNet-V2, matched frequency; its folders bear the number of the class, so 10 does not come after 1."""
    tested = first_folder(folder, ("imagenetv2-matched-frequency-format-val",))
    root = _root(folder.parent / "imagenet")
    synsets = _folders(root / "train")
    return _parts(root, synsets, tested, [str(label) for label in range(len(synsets))])


def _parts(root: Path, synsets: list[str], tested: Path, test_folders: list[str]) -> Parts:
    """Training images in `root`/train/<synset>; test images in `tested`/<folder>, in the same order of classes."""
    classes = tuple(_class_names()[synset] for synset in synsets)
    return Parts(classes, _tree(root / "train", synsets), None, _tree(tested, test_folders))


def _root(folder: Path) -> Path:
    return first_folder(folder, ("train", "images/train")).parent  # CoOp keeps the images one folder deeper


@cache
def _class_names() -> dict[str, str]:
    """Class name of each of the 1,000 synsets."""
    from open_clip import IMAGENET_CLASSNAMES
    from timm.data.imagenet_info import ImageNetInfo

    return dict(zip(ImageNetInfo().label_names(), IMAGENET_CLASSNAMES, strict=True)) | _RENAMED


def _folders(root: Path) -> list[str]:
    return [name for name in _names_in(root) if (root / name).is_dir()]


def _names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


def _tree(root: Path, folders: list[str]) -> list[Example]:
    """The images in class folders; the label of a folder is its place in the list."""
    return file_examples(
        root,
        ((f"{folder}/{name}", label) for label, folder in enumerate(folders) for name in _names_in(root / folder)),
    )
