"""A bundle or a run on a split it was not trained on, beside the linear probe and input-independent prompts.

All three see the same frozen backbone and the same images. The probe is fitted as in training: on the training
images, its C chosen on validation.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from matplotlib.figure import Figure
from torch import Tensor

from pgn.bundle import Bundle, read_bundle, write_atomically
from pgn.errors import UsageError
from pgn.method.predictor import Predictor
from training.config import open_images
from training.curves import save_figure
from training.data.dataset import SplitName
from training.data.images import Images, load_split
from training.disk import clear_disk_errors
from training.export import load_weights
from training.features import plain_features
from training.loop import train
from training.methods.prompted import PromptedAdapter
from training.result import WEIGHTS_FILE, read_result
from training.run import as_json, config_of_bundle, config_of_run
from training.scores import Scores, logits_of, score
from training.setting import Setting, prepare

MOST_NAMED = 60  # classes that a picture of the confusion matrix has names and numbers for
RIVAL: Final = "iip"  # the method that a bundle is put beside


@dataclass(frozen=True)
class Report:
    """What an evaluation found.

    Attributes:
        bundle: Name of the bundle's file, or of the run's folder if its method is not served.
        dataset: Name of the data set that was asked about.
        split: Which of its images were asked.
        classes: Class names, in the order of the confusion matrix.
        scores: By method: its own first, then "linear probe", then "iip" where there is one, with its file behind
            that if the first is one, too.
        confusion: (C, C) counts; row is the true class, column the answer.
        elsewhere: Whether the images are others than those it was trained on.
    """

    bundle: str
    dataset: str
    split: SplitName
    classes: tuple[str, ...]
    scores: dict[str, Scores]
    confusion: Tensor
    elsewhere: bool = False

    @property
    def numbers_file(self) -> str:
        """Name of the file with the numbers: evaluation.json for the test images of its own data set."""
        return f"evaluation{self._place}.json"

    @property
    def picture_file(self) -> str:
        """Name of the picture of the confusion matrix: confusion.png for the test images of its own data set."""
        return f"confusion{self._place}.png"

    @property
    def _place(self) -> str:
        """`-val` for another split and `.imagenet-r` for another data set, so that no evaluation covers another."""
        return ("" if self.split == "test" else f"-{self.split}") + (f".{self.dataset}" if self.elsewhere else "")

    def table(self) -> str:
        """The scores as a small text table, in per cent, and a line on how far chance reaches."""
        sources = list(next(iter(self.scores.values())).by_source)
        ranked = ["top-5"] if len(self.classes) > 5 else []  # of five classes any answer is among the first five
        lines = [["method", "images", "top-1", *ranked, *sources]]
        for name, scores in self.scores.items():
            top1 = f"{100 * scores.top1:.1f} ± {100 * standard_error(scores.top1, scores.images):.1f}"
            shares = [scores.top5][: len(ranked)] + [scores.by_source[source] for source in sources]
            lines.append([name, str(scores.images), top1, *(f"{100 * share:.1f}" for share in shares)])
        widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
        rows = [
            "  ".join(
                cell.ljust(width) if i == 0 else cell.rjust(width)
                for i, (cell, width) in enumerate(zip(line, widths, strict=True))
            )
            for line in lines
        ]
        return "\n".join(
            [*rows, "±: standard error of top-1; asked about other images, it would differ by about as much"]
        )

    def to_dict(self) -> dict[str, Any]:
        """As plain data."""
        return {
            "bundle": self.bundle,
            "dataset": self.dataset,
            "split": self.split,
            "scores": {name: scores.brief() for name, scores in self.scores.items()},
            "classes": list(self.classes),
            "confusion": self.confusion.tolist(),
        }


def standard_error(share: float, images: int) -> float:
    """Of a share (0..1) of so many images, binomial.

    All and none count as half an image less and more: none wrong of seventeen does not mean that none ever will be.
    """
    share = min(max(share, 0.5 / images), 1 - 0.5 / images)
    return math.sqrt(share * (1 - share) / images)


def evaluate(
    trained: Path,
    *,
    out: Path,
    backbone: Path | None = None,
    dataset: tuple[str, ...] | None = None,
    split: SplitName = "test",
    iip: Path | None = None,
    train_iip: bool = False,
) -> Report:
    """Score a bundle or a run; also writes numbers and confusion matrix into `out`, in the files that the report names.

    Scores are those of result.json, for the same images: a bundle's temperature, which changes its loss and no answer,
    is left aside, so that all rows are measured alike.

    Args:
        trained: A bundle's file, or the folder of a finished run of any method.
        out: Folder for the results.
        backbone: Folder of the backbone; by default the one it was trained on.
        dataset: Specs of the images; by default those it was trained on. The class names have to be the same, or for
            a bundle some of its own: then it chooses among those, as is usual for ImageNet-A and -R.
        split: Which images to ask.
        iip: A bundle of input-independent prompts to stand beside it.
        train_iip: Train those now, with the same settings and as many epochs, into `out`/iip.

    Raises:
        UsageError: The run has not ended, the bundle does not say how it was trained, the data set has other
            classes, or no such prompts can stand beside it.
        PgnError: What reading bundle, backbone and images raises.
    """
    if trained.is_dir():
        trained = _file_of_run(trained)
    bundle = None if trained.name == WEIGHTS_FILE else read_bundle(trained)
    config = config_of_bundle(bundle) if bundle else config_of_run(trained.parent)
    if train_iip and (iip or config.method == RIVAL):
        raise UsageError(
            f"--train-iip has nothing to add: {iip or trained} holds such prompts already", hint="leave it out"
        )
    known = bundle.manifest.classes if bundle else open_images(config).classes
    given = {"out": out, "backbone": backbone, "dataset": dataset}
    setting = prepare(config.model_copy(update={name: value for name, value in given.items() if value}))
    classes = setting.dataset.classes
    if classes != known and not (bundle and set(classes) <= set(known)):
        raise UsageError(
            f"the images have the classes {_few(classes)}, the bundle knows {_few(known)}",
            hint="give the --dataset that the bundle was trained on",
        )
    if train_iip:
        iip = train(setting.config.model_copy(update={"method": RIVAL, "out": out / RIVAL, "start_from": ()}))
    rival = _rival(setting, iip) if iip else None
    images = load_split(setting.dataset, split, setting.backbone.spec.preprocess)
    answers = _logits_of_bundle(setting, bundle, images) if bundle else _logits(setting, trained, images)
    rows = {
        config.method: answers,
        "linear probe": setting.probe.head()(plain_features(setting.backbone, images, setting.config.cache)),
    }
    if rival and iip:
        rows[f"{RIVAL} ({iip.name})" if config.method == RIVAL else RIVAL] = _logits_of_bundle(setting, rival, images)
    sources = setting.dataset.class_sources
    report = Report(
        bundle=trained.name if bundle else trained.parent.name,
        dataset=setting.dataset.name,
        split=split,
        classes=classes,
        scores={name: score(values, images.labels, sources) for name, values in rows.items()},
        confusion=confusion_matrix(answers.argmax(1), images.labels, len(classes)),
        elsewhere=setting.config.dataset != config.dataset,
    )
    with clear_disk_errors(out):
        out.mkdir(parents=True, exist_ok=True)
        write_atomically(out / report.numbers_file, as_json(report.to_dict()))
    draw_confusion(report, out / report.picture_file)
    return report


def _file_of_run(folder: Path) -> Path:
    result = read_result(folder)
    if result is None:
        raise UsageError(f"{folder} holds no finished run", hint="give a bundle's file, or the --out of `pgn train`")
    return folder / (result.bundle or result.weights or "")


def _logits(setting: Setting, weights: Path, images: Images) -> Tensor:
    """(M, C) of the trained model in that file."""
    model = load_weights(setting, weights)
    return logits_of(setting.backbone, model.adapter, model.head.plain(), images)


def _logits_of_bundle(setting: Setting, bundle: Bundle, images: Images) -> Tensor:
    """(M, C) without its temperature; C are the images' classes, all or some of the bundle's."""
    predictor = Predictor(setting.backbone, bundle)
    rows = logits_of(setting.backbone, PromptedAdapter(predictor.generator), predictor.head, images)
    return rows[:, [bundle.manifest.classes.index(name) for name in setting.dataset.classes]]


def _rival(setting: Setting, path: Path) -> Bundle:
    """The input-independent prompts in that file, which know the images' classes."""
    rival, classes = read_bundle(path), setting.dataset.classes
    if rival.manifest.method != RIVAL:
        raise UsageError(
            f"{path} is a bundle of {rival.manifest.method}, not of input-independent prompts",
            hint="give as --iip what `pgn train --method iip` made",
        )
    if not set(classes) <= set(rival.manifest.classes):
        raise UsageError(
            f"the images have the classes {_few(classes)}, {path} knows {_few(rival.manifest.classes)}",
            hint="give an --iip that was trained on the same classes",
        )
    return rival


def _few(names: tuple[str, ...]) -> str:
    """The first names and how many there are: a list of a thousand is no clear line."""
    return ", ".join(names) if len(names) <= 10 else f"{', '.join(names[:10])}, … ({len(names)})"


def confusion_matrix(answers: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """(C, C) counts from (M) answers and (M) labels; row is the true class, column the answer."""
    cells = torch.bincount(labels * num_classes + answers, minlength=num_classes**2)
    return cells.view(num_classes, num_classes)


def draw_confusion(report: Report, path: Path) -> None:
    """Write the confusion matrix as PNG: colour is the share of the true class, numbers are counts.

    Of very many classes only the colours fit, without names and numbers.
    """
    count = len(report.classes)
    side = 2.5 + 0.45 * min(count, MOST_NAMED)
    figure = Figure(figsize=(side, side), layout="constrained")
    axes = figure.subplots()
    shares = report.confusion / report.confusion.sum(1, keepdim=True).clamp(min=1)
    axes.imshow(shares.numpy(), cmap="Blues", vmin=0, vmax=1)
    axes.set(xlabel="answer", ylabel="true class", title=f"{report.bundle.split('.')[0]}, {report.split}")
    if count > MOST_NAMED:
        save_figure(figure, path)
        return
    axes.set_xticks(range(count), report.classes, rotation=90)
    axes.set_yticks(range(count), report.classes)
    for row, column in report.confusion.nonzero().tolist():
        colour = "white" if shares[row, column] > 0.5 else "black"
        answers = str(int(report.confusion[row, column]))
        axes.text(column, row, answers, ha="center", va="center", color=colour, fontsize=7)
    save_figure(figure, path)
