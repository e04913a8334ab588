"""Every public set by name, as plain data: where its files lie, how they are read and split, and what is known of them.

Counts are those published. docs/data-sets.md is written from this table (`tables.py`).
Sources: Loedeman et al., BMVC 2024 and the authors' code (the twelve sets and their sentences); Zhou et al., CoOp
(split files); Zhai et al., VTAB; Jia et al., VPT (FGVC, VTAB's test sizes).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from torchvision.datasets import CIFAR10, CIFAR100, DTD, EuroSAT, Flowers102, OxfordIIITPet

from training.data.named import fgvc, imagenet, official, structured
from training.data.named.coop import read_split_file
from training.data.named.entry import Entry
from training.data.named.official import with_drawn_test
from training.data.named.parts import Parts
from training.data.named.vtab import read_task

OFFICIAL, COOP = "official train and test", "CoOp's split file"
BY_TORCHVISION = "torchvision downloads it when it is named"
IMAGES_BY_TORCHVISION = "are then downloaded by torchvision"  # once the split file is there
_RESEARCH = "no explicit licence; published for research"
_IMAGENET_TERMS = "ImageNet's terms: research and teaching, not commercial"


def _drive(file_id: str) -> str:
    return f"https://drive.google.com/file/d/{file_id}/view"


def _coop_file(name: str, file_id: str) -> str:
    return f"put {name} from {_drive(file_id)} into {{folder}}"


def _pgn() -> Iterator[Entry]:
    """The twelve sets of the PGN paper, with its sentences."""
    licence = "no formal licence; free for research with a citation (Krizhevsky 2009)"
    for name, title, kind, classes, template in (
        ("cifar100", "CIFAR-100", CIFAR100, 100, "A photo of a {}"),
        ("cifar10", "CIFAR-10", CIFAR10, 10, "This is a photo of a {}"),
    ):
        get = f"{BY_TORCHVISION} (170 MB), or unpack https://www.cs.toronto.edu/~kriz/{kind.filename} in {{folder}}"
        yield Entry(
            name, title, "PGN", (name,), partial(official.cifar, dataset=kind), get, OFFICIAL,
            classes, 50_000, None, 10_000, licence, template,
            first_files=(f"{{folder}}/{kind.base_folder}/{kind.train_list[0][0]}",),
        )  # fmt: skip
    yield Entry(
        name="flowers102",
        title="Oxford Flowers",
        group="PGN",
        folders=("flowers102", "oxford_flowers"),
        read=partial(
            read_split_file, file="split_zhou_OxfordFlowers.json", dataset=Flowers102,
            images=("jpg", "images", "flowers-102/jpg"),
        ),
        get=_coop_file("split_zhou_OxfordFlowers.json", "1Pp0sRXzZFZq15zVOzKjKBu4A9i01nozT")
        + f"; the images (330 MB) {IMAGES_BY_TORCHVISION}, or unpack "
        "https://www.robots.ox.ac.uk/~vgg/data/flowers/102/102flowers.tgz there",
        split=COOP,
        classes=102,
        train=4_093,
        val=1_633,
        test=2_463,
        first_files=("{folder}/split_zhou_OxfordFlowers.json",),
        licence=f"{_RESEARCH} (Nilsback and Zisserman 2008)",
    )  # fmt: skip
    yield Entry(
        name="food101",
        title="Food-101",
        group="PGN",
        folders=("food101", "food-101"),
        read=partial(read_split_file, file="split_zhou_Food101.json", images=("images", "food-101/images")),
        get="unpack http://data.vision.ee.ethz.ch/cvl/food-101.tar.gz (5 GB) in {folder}, and "
        + _coop_file("split_zhou_Food101.json", "1QK0tGi096I0Ba6kggatX1ee6dJFIcEJl"),
        split=COOP,
        classes=101,
        train=50_500,
        val=20_200,
        test=30_300,
        first_files=("{folder}/split_zhou_Food101.json",),
        licence="images from Foodspotting, owned by their makers; scientific fair use only (Bossard 2014)",
    )
    yield Entry(
        name="eurosat",
        title="EuroSAT",
        group="PGN",
        folders=("eurosat",),
        read=partial(
            read_split_file, file="split_zhou_EuroSAT.json", dataset=EuroSAT,
            images=("2750", "images", "eurosat/2750"),
        ),
        get=_coop_file("split_zhou_EuroSAT.json", "1Ip7yaCWFi0eaOFUGga0lUdVi_DDQth1o")
        + f"; the images (90 MB) {IMAGES_BY_TORCHVISION}, or unpack EuroSAT.zip of "
        "https://github.com/phelber/EuroSAT there",
        split=COOP,
        classes=10,
        train=13_500,
        val=5_400,
        test=8_100,
        first_files=("{folder}/split_zhou_EuroSAT.json",),
        licence="MIT; contains Copernicus Sentinel data (Helber 2019)",
    )  # fmt: skip
    yield Entry(
        name="sun397",
        title="SUN397",
        group="PGN",
        folders=("sun397",),
        read=partial(read_split_file, file="split_zhou_SUN397.json", images=("SUN397", "images")),
        get="unpack http://vision.princeton.edu/projects/2010/SUN/SUN397.tar.gz (37 GB) in {folder}, and "
        + _coop_file("split_zhou_SUN397.json", "1y2RD81BYuiyvebdN-JymPfyWYcd8_MUq"),
        split=COOP,
        classes=397,
        train=15_880,
        val=3_970,
        test=19_850,
        first_files=("{folder}/split_zhou_SUN397.json",),
        licence=f"{_RESEARCH} (Xiao 2010)",
    )
    yield Entry(
        name="ucf101",
        title="UCF-101, middle frames",
        group="PGN",
        folders=("ucf101",),
        read=partial(read_split_file, file="split_zhou_UCF101.json", images=("UCF-101-midframes", "images")),
        get=f"unpack UCF-101-midframes.zip from {_drive('10Jqome3vtUA2keJkNanAiFpgbyC9Hc2O')} in {{folder}}, and "
        + _coop_file("split_zhou_UCF101.json", "1I0S0q91hJfsV9Gf4xDIjgDq4AqBNJb1y"),
        split=COOP,
        classes=101,
        train=7_639,
        val=1_898,
        test=3_783,
        first_files=("{folder}/split_zhou_UCF101.json",),
        licence=f"{_RESEARCH}; frames of YouTube videos (Soomro 2012)",
    )
    yield Entry(
        name="svhn",
        title="SVHN",
        group="PGN",
        folders=("svhn",),
        read=official.svhn,
        get=f"{BY_TORCHVISION} (250 MB), or put train_32x32.mat and test_32x32.mat from "
        "http://ufldl.stanford.edu/housenumbers/ into {folder}",
        split=f"{OFFICIAL}, without the extra images",
        classes=10,
        train=73_257,
        val=None,
        test=26_032,
        first_files=("{folder}/train_32x32.mat",),
        licence="not for commercial use (Netzer 2011)",
        flip=False,
    )
    yield Entry(
        name="oxford-pets",
        title="Oxford-IIIT Pets",
        group="PGN",
        folders=("oxford-pets", "oxford_pets"),
        read=partial(
            read_split_file, file="split_zhou_OxfordPets.json", dataset=OxfordIIITPet,
            images=("images", "oxford-iiit-pet/images"),
        ),
        get=_coop_file("split_zhou_OxfordPets.json", "1501r8Ber4nNKvmlFVQZ8SeUHTcdTTEqs")
        + f"; the images (800 MB) {IMAGES_BY_TORCHVISION}, or unpack "
        "https://www.robots.ox.ac.uk/~vgg/data/pets/data/images.tar.gz there",
        split=COOP,
        classes=37,
        train=2_944,
        val=736,
        test=3_669,
        first_files=("{folder}/split_zhou_OxfordPets.json",),
        licence="CC BY-SA 4.0 (Parkhi 2012)",
    )  # fmt: skip
    yield Entry(
        name="dtd",
        title="DTD",
        group="PGN",
        folders=("dtd",),
        read=partial(
            read_split_file, file="split_zhou_DescribableTextures.json", dataset=DTD,
            images=("images", "dtd/images", "dtd/dtd/images"),
        ),
        get=_coop_file("split_zhou_DescribableTextures.json", "1u3_QfB467jqHgNXC00UIzbLZRQCg2S7x")
        + f"; the images (600 MB) {IMAGES_BY_TORCHVISION}, or unpack "
        "https://www.robots.ox.ac.uk/~vgg/data/dtd/download/dtd-r1.0.1.tar.gz there",
        split=COOP,
        classes=47,
        train=2_820,
        val=1_128,
        test=1_692,
        first_files=("{folder}/split_zhou_DescribableTextures.json",),
        licence=f"{_RESEARCH} (Cimpoi 2014)",
    )  # fmt: skip
    yield Entry(
        name="resisc45",
        title="RESISC45",
        group="PGN",
        folders=("resisc45",),
        read=partial(read_split_file, file="resisc45_json.json", images=("images", "NWPU-RESISC45")),
        get="unpack NWPU-RESISC45 (https://1drv.ms/u/s!AmgKYzARBl5ca3HNaHIlzp_IXjs) as {folder}/images/CLASS, and "
        "put data/resisc45/resisc45_json.json of https://github.com/jochemloedeman/PGN into {folder}",
        split="the PGN authors' split file",
        classes=45,
        train=18_900,
        val=6_300,
        test=6_300,
        first_files=("{folder}/resisc45_json.json",),
        licence=f"{_RESEARCH}; Google Earth imagery (Cheng 2017)",
    )
    yield Entry(
        name="clevr-count",
        title="CLEVR, count",
        group="PGN",
        folders=("clevr",),
        read=official.clevr_count,
        get="unpack https://dl.fbaipublicfiles.com/clevr/CLEVR_v1.0.zip (18 GB) in {folder}",
        split="official train scenes; official val scenes as test",
        classes=8,
        train=70_000,
        val=None,
        test=15_000,
        first_files=("{folder}/CLEVR_v1.0/scenes/CLEVR_train_scenes.json",),
        licence="CC BY 4.0 (Johnson 2017)",
        template="This is a photo of {} objects",
        upside_down=True,
    )


def _imagenet() -> Iterator[Entry]:
    """ImageNet-1k, and what tests its classifiers elsewhere."""
    template = "a photo of a {}"
    beside = "; ImageNet's train has to lie beside it, in imagenet"
    yield Entry(
        name="imagenet",
        title="ImageNet-1k",
        group="ImageNet",
        folders=("imagenet",),
        read=imagenet.imagenet,
        get="fetch ILSVRC2012_devkit_t12.tar.gz, ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar from "
        "https://image-net.org (an account is needed) into {folder}; torchvision.datasets.ImageNet unpacks them to "
        "train/SYNSET and val/SYNSET",
        split="official train; official val as test",
        classes=1_000,
        train=1_281_167,
        val=None,
        test=50_000,
        first_files=("{folder}/train/n*/*", "{folder}/images/train/n*/*"),
        licence=_IMAGENET_TERMS,
        template=template,
    )
    for name, title, folders, read, where, classes, test, author in (
        (
            "imagenet-a", "ImageNet-A", ("imagenet-a", "imagenet-adversarial"),
            partial(imagenet.imagenet_variant, images=("imagenet-a", "."), subset=True),
            "https://people.eecs.berkeley.edu/~hendrycks/imagenet-a.tar", 200, 7_500, "Hendrycks 2021",
        ),
        (
            "imagenet-r", "ImageNet-R", ("imagenet-r", "imagenet-rendition"),
            partial(imagenet.imagenet_variant, images=("imagenet-r", "."), subset=True),
            "https://people.eecs.berkeley.edu/~hendrycks/imagenet-r.tar", 200, 30_000, "Hendrycks 2021",
        ),
        (
            "imagenet-v2", "ImageNet-V2, matched frequency", ("imagenet-v2", "imagenetv2"), imagenet.imagenet_v2,
            "https://s3-us-west-2.amazonaws.com/imagenetv2public/imagenetv2-matched-frequency.tar.gz",
            1_000, 10_000, "Recht 2019",
        ),
        (
            "imagenet-sketch", "ImageNet-Sketch", ("imagenet-sketch",),
            partial(imagenet.imagenet_variant, images=("images", "sketch", "."), subset=False),
            "the archive of https://github.com/HaohanWang/ImageNet-Sketch", 1_000, 50_889, "Wang 2019",
        ),
    ):  # fmt: skip
        train = 1_281_167 if classes == 1_000 else None
        split = "its images as test; train and val are ImageNet's" + (", of its 200 classes" if train is None else "")
        licence = f"MIT for the collection, the images belong to their makers ({author})"
        get = f"unpack {where} in {{folder}}{beside}"
        yield Entry(
            name, title, "ImageNet", folders, read, get, split, classes, train, None, test, licence, template,
            first_files=("{folder}/n*/*", "{folder}/*/*/*"),
        )  # fmt: skip


def _fgvc() -> Iterator[Entry]:
    """The fine-grained sets of VPT and VAPT."""
    val_list = "; put VPT's val.json there too for its validation images instead of a drawn tenth"
    for name, title, folders, read, first, where, classes, train, test, licence in (
        (
            "fgvc-cub", "CUB-200-2011", ("cub", "CUB_200_2011"), fgvc.birds, "images.txt",
            "put what is in CUB_200_2011 of https://data.caltech.edu/records/65de6-vp158", 200, 5_994, 5_794,
            "research and teaching, not commercial (Wah 2011)",
        ),
        (
            "fgvc-nabirds", "NABirds", ("nabirds",), fgvc.birds, "images.txt",
            "put what is in nabirds.tar.gz of https://dl.allaboutbirds.org/nabirds", 555, 23_929, 24_633,
            "research, by agreement with the Cornell Lab of Ornithology (Van Horn 2015)",
        ),
        (
            "fgvc-dogs", "Stanford Dogs", ("stanford_dogs", "StanfordDogs"), fgvc.stanford_dogs, "train_list.mat",
            "unpack images.tar and lists.tar of http://vision.stanford.edu/aditya86/ImageNetDogs", 120, 12_000, 8_580,
            _IMAGENET_TERMS,
        ),
        (
            "fgvc-cars", "Stanford Cars", ("stanford_cars",), fgvc.stanford_cars,
            "devkit/cars_train_annos.mat",
            "Stanford offers it no more; put a copy's cars_train, cars_test, devkit and cars_test_annos_withlabels.mat",
            196, 8_144, 8_041, f"{_RESEARCH}, not commercial (Krause 2013)",
        ),
    ):  # fmt: skip
        get = where + (" in {folder}" if where.startswith("unpack") else " into {folder}") + val_list
        yield Entry(
            name, title, "FGVC", folders, read, get, OFFICIAL, classes, train, None, test, licence,
            first_files=(f"{{folder}}/{first}",),
        )  # fmt: skip
    yield Entry(
        name="fgvc-flowers",
        title="Oxford Flowers, official split",
        group="FGVC",
        folders=("flowers102",),
        read=official.flowers102,
        get=f"{BY_TORCHVISION} (330 MB), or put what is in 102flowers.tgz, imagelabels.mat and setid.mat of "
        "https://www.robots.ox.ac.uk/~vgg/data/flowers/102 into {folder}/flowers-102",
        split="official train, val and test",
        classes=102,
        train=1_020,
        val=1_020,
        test=6_149,
        first_files=("{folder}/flowers-102/setid.mat",),
        licence=f"{_RESEARCH} (Nilsback and Zisserman 2008)",
    )


def _vtab() -> Iterator[Entry]:
    """The 19 tasks of VTAB-1k: natural, specialised, structured."""

    def task(
        name: str,
        title: str,
        lists: str,
        classes: int,
        test: int,
        licence: str,
        *,
        source: Callable[[Path], Parts] | None = None,
        at: str = "",
        first: str = "",
        files: str = "",
        names: tuple[str, ...] | None = None,
        template: str = "a photo of a {}",
        flip: bool = True,
        has_every_class: bool = True,
    ) -> Entry:
        read = partial(read_task, lists=lists, classes=classes, names=names, source=source, source_folder=at)
        get = (
            "run data/vtab-source/get_vtab1k.py of https://github.com/ZhangYuanhan-AI/NOAH in its folder (needs "
            f"TensorFlow Datasets; makes all 19 tasks), and move what it makes, so that there is {{folder}}/{lists}"
        )
        drawn = f"else our own draw from {at}" if source else "only from the lists"
        return Entry(
            f"vtab-{name}", title, "VTAB-1k", ("vtab-1k",), read,
            get + (f", or: {files.format(folder='{data}/' + at)}" if source else ""),
            f"VTAB's lists, {drawn}", classes, 800, 200, test, licence, template, flip, has_every_class,
            (f"{{folder}}/{lists}/train800.txt", *((f"{at}/{first}",) if source else ())),
        )  # fmt: skip

    def drawn(read: Callable[[Path], Parts], val: float, test: float) -> Callable[[Path], Parts]:
        return lambda folder: with_drawn_test(read(folder), val=val, test=test)

    pgn = {entry.name: entry for entry in _pgn()}
    digits, torch_has_it = tuple(str(digit) for digit in range(10)), BY_TORCHVISION
    yield task(
        "cifar100", "CIFAR-100", "cifar", 100, 10_000, pgn["cifar100"].licence,
        source=pgn["cifar100"].read, at="cifar100", first="cifar-100-python/train", files=torch_has_it,
    )  # fmt: skip
    yield task(
        "caltech101", "Caltech-101", "caltech101", 102, 6_084, "CC BY 4.0 (Li 2004)",
        source=official.caltech101, at="caltech101", first="101_ObjectCategories/*/*",
        files="unpack 101_ObjectCategories of https://data.caltech.edu/records/mzrjq-6wc02 in {folder}",
    )  # fmt: skip
    yield task(
        "dtd", "DTD", "dtd", 47, 1_880, pgn["dtd"].licence,
        source=official.dtd, at="dtd", first="dtd/dtd/labels/train1.txt", files=torch_has_it,
    )  # fmt: skip
    yield task(
        "flowers102", "Oxford Flowers", "oxford_flowers102", 102, 6_149, pgn["flowers102"].licence,
        source=official.flowers102, at="flowers102", first="flowers-102/setid.mat", files=torch_has_it,
    )  # fmt: skip
    yield task(
        "pets", "Oxford-IIIT Pets", "oxford_iiit_pet", 37, 3_669, pgn["oxford-pets"].licence,
        source=official.oxford_pets, at="oxford-pets", first="oxford-iiit-pet/annotations/trainval.txt",
        files=torch_has_it,
    )  # fmt: skip
    yield task(
        "svhn", "SVHN", "svhn", 10, 26_032, pgn["svhn"].licence,
        source=official.svhn, at="svhn", first="train_32x32.mat", files=torch_has_it, names=digits, flip=False,
    )  # fmt: skip
    yield task(
        "sun397", "SUN397", "sun397", 397, 21_750, pgn["sun397"].licence,
        source=drawn(official.sun397, 0.1, 0.2), at="sun397", first="SUN397/ClassName.txt",
        files="unpack SUN397.tar.gz in {folder}",
        has_every_class=False,  # two images a class on average, so VTAB's own list leaves some out
    )  # fmt: skip
    yield task(
        "camelyon", "Patch Camelyon", "patch_camelyon", 2, 32_768, "CC0 (Veeling 2018)",
        names=("healthy tissue", "tumour tissue"),
    )  # fmt: skip
    yield task(
        "eurosat", "EuroSAT", "eurosat", 10, 5_400, pgn["eurosat"].licence,
        source=drawn(official.eurosat, 0.2, 0.2), at="eurosat", first="eurosat/2750/*/*",
        files=torch_has_it,
        names=("annual crop", "forest", "herbaceous vegetation", "highway", "industrial", "pasture", "permanent crop",
               "residential", "river", "sea lake"),
    )  # fmt: skip
    yield task(
        "resisc45", "RESISC45", "resisc45", 45, 6_300, pgn["resisc45"].licence,
        source=pgn["resisc45"].read, at="resisc45", first="resisc45_json.json", files=pgn["resisc45"].get,
    )  # fmt: skip
    yield task(
        "retinopathy", "Diabetic retinopathy", "diabetic_retinopathy", 5, 42_670, "rules of the Kaggle contest (2015)",
        names=("no retinopathy", "mild retinopathy", "moderate retinopathy", "severe retinopathy",
               "proliferative retinopathy"),
        template="an eye with {}",
    )  # fmt: skip
    yield task(
        "clevr-count", "CLEVR, count", "clevr_count", 8, 15_000, pgn["clevr-count"].licence,
        source=official.clevr_count, at="clevr", first="CLEVR_v1.0/scenes/CLEVR_train_scenes.json",
        files=pgn["clevr-count"].get,
        names=tuple(map(str, official.COUNTS)), template="a photo of {} objects",
    )  # fmt: skip
    yield task(
        "clevr-distance", "CLEVR, distance", "clevr_dist", 6, 15_000, pgn["clevr-count"].licence,
        source=official.clevr_distance, at="clevr", first="CLEVR_v1.0/scenes/CLEVR_train_scenes.json",
        files=pgn["clevr-count"].get,
        names=official.DISTANCE_NAMES, template="the nearest object is at {}",
    )  # fmt: skip
    yield task(
        "dmlab", "DMLab", "dmlab", 6, 22_735, "unstated",
        names=("nearby apple or melon", "far apple or melon", "very far apple or melon", "nearby lemon", "far lemon",
               "very far lemon"),
    )  # fmt: skip
    yield task(
        "kitti-distance", "KITTI, distance", "kitti", 4, 711, "CC BY-NC-SA 3.0 (Geiger 2012)",
        names=("within 8 metres", "8 to 20 metres away", "more than 20 metres away", "not in sight"),
        template="the nearest vehicle is {}",
    )  # fmt: skip
    sprites = f"put {structured.DSPRITES} of https://github.com/google-deepmind/dsprites-dataset into {{folder}}"
    for name, title, lists, latent, values, text in (
        ("dsprites-location", "dSprites, location", "dsprites_loc", 4, 32, "column {}"),
        ("dsprites-orientation", "dSprites, orientation", "dsprites_ori", 3, 40, "turn {}"),
    ):
        read = partial(structured.dsprites, latent=latent, values=values, name=text)
        yield task(
            name, title, lists, 16, 73_728, "Apache-2.0 (Matthey 2017)", source=read, at="dsprites",
            first=structured.DSPRITES, files=sprites,
            names=tuple(text.format(number) for number in range(16)), template="a shape at {}", flip=False,
        )  # fmt: skip
    norb = "unzip the six files of https://cs.nyu.edu/~ylclab/data/norb-v1.0-small into {folder}"
    for name, title, lists, column, step, names, flip in (
        ("norb-azimuth", "small NORB, azimuth", "smallnorb_azi", 2, 2, structured.AZIMUTHS, False),
        ("norb-elevation", "small NORB, elevation", "smallnorb_ele", 1, 1, structured.ELEVATIONS, True),
    ):
        read = partial(structured.small_norb, column=column, step=step, classes=names)
        yield task(
            name, title, lists, len(names), 12_150, "research, not commercial (LeCun 2004)", source=read, at="norb",
            first=f"{structured.SMALL_NORB['training']}-dat.mat", files=norb, names=names,
            template="a toy seen from {}", flip=flip,
        )  # fmt: skip


CATALOGUE: dict[str, Entry] = {entry.name: entry for make in (_pgn, _imagenet, _fgvc, _vtab) for entry in make()}
"""Every public set by its name."""
