"""A bundle or a run on a split it was not trained on, beside the linear probe and input-independent prompts.

All three see the same frozen backbone and the same images. The probe is fitted as in training: on the training
images, its C chosen on validation.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
from training.features import EVAL_BATCH, plain_features
from training.loop import train
from training.result import WEIGHTS_FILE, read_result
from training.run import as_json, config_of_bundle, config_of_run
from training.scores import Scores, logits_of, score
from training.setting import Setting, prepare

MOST_NAMED = 60  # classes that a picture of the confusion matrix has names and numbers for


@dataclass(frozen=True)
class Report:
    """What an evaluation found.

    Attributes:
        bundle: Name of the bundle's file, or of the run's folder if its method is not served.
        split: Which images were asked.
        classes: Class names, in the order of the confusion matrix.
        scores: By method: its own first, then "linear probe", then "iip" where there is one.
        confusion: (C, C) counts; row is the true class, column the answer.
    """

    bundle: str
    split: SplitName
    classes: tuple[str, ...]
    scores: dict[str, Scores]
    confusion: Tensor

    def table(self) -> str:
        """The scores as a small text table, in per cent."""
        sources = list(next(iter(self.scores.values())).by_source)
        lines = [["method", "images", "top-1", "top-5", *sources]]
        for name, scores in self.scores.items():
            shares = [scores.top1, scores.top5, *(scores.by_source[source] for source in sources)]
            lines.append([name, str(scores.images), *(f"{100 * share:.2f}" for share in shares)])
        widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
        return "\n".join(
            "  ".join(
                cell.ljust(width) if i == 0 else cell.rjust(width)
                for i, (cell, width) in enumerate(zip(line, widths, strict=True))
            )
            for line in lines
        )

    def to_dict(self) -> dict[str, Any]:
        """As plain data."""
        return {
            "bundle": self.bundle,
            "split": self.split,
            "scores": {name: scores.brief() for name, scores in self.scores.items()},
            "classes": list(self.classes),
            "confusion": self.confusion.tolist(),
        }


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
    """Score a bundle or a run; also writes evaluation.json and confusion.png into `out`.

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
        UsageError: The run has not ended, the bundle does not say how it was trained, or the data set has other
            classes.
        PgnError: What reading bundle, backbone and images raises.
    """
    if trained.is_dir():
        trained = _file_of_run(trained)
    bundle = None if trained.name == WEIGHTS_FILE else read_bundle(trained)
    config = config_of_bundle(bundle) if bundle else config_of_run(trained.parent)
    known = bundle.manifest.classes if bundle else open_images(config).classes
    given = {"out": out, "backbone": backbone, "dataset": dataset}
    setting = prepare(config.model_copy(update={name: value for name, value in given.items() if value}))
    classes = setting.dataset.classes
    if classes != known and not (bundle and set(classes) <= set(known)):
        raise UsageError(
            f"the images have the classes {_few(classes)}, the bundle knows {_few(known)}",
            hint="give the --dataset that the bundle was trained on",
        )
    rival = read_bundle(iip) if iip else None
    if rival and not set(classes) <= set(rival.manifest.classes):
        raise UsageError(
            f"the images have the classes {_few(classes)}, {iip} knows {_few(rival.manifest.classes)}",
            hint="give an --iip that was trained on the same classes",
        )
    images = load_split(setting.dataset, split, setting.backbone.spec.preprocess)
    if train_iip:
        alone = {"method": "iip", "out": out / "iip", "start_from": ()}
        rival = read_bundle(train(setting.config.model_copy(update=alone)))
    answers = _log_probabilities(setting, bundle, images) if bundle else _logits(setting, trained, images)
    rows = {
        config.method: answers,
        "linear probe": setting.probe.head()(plain_features(setting.backbone, images, setting.config.cache)),
        **({"iip": _log_probabilities(setting, rival, images)} if rival else {}),
    }
    sources = setting.dataset.class_sources
    report = Report(
        bundle=trained.name if bundle else trained.parent.name,
        split=split,
        classes=classes,
        scores={name: score(values, images.labels, sources) for name, values in rows.items()},
        confusion=confusion_matrix(answers.argmax(1), images.labels, len(classes)),
    )
    with clear_disk_errors(out):
        out.mkdir(parents=True, exist_ok=True)
        write_atomically(out / "evaluation.json", as_json(report.to_dict()))
    draw_confusion(report, out / "confusion.png")
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


def _log_probabilities(setting: Setting, bundle: Bundle, images: Images) -> Tensor:
    """(M, C), by the in-process twin of what is served; C are the images' classes, all or some of the bundle's."""
    predictor = Predictor(setting.backbone, bundle)
    rows = torch.cat([predictor.probabilities(pixels).cpu() for pixels in images.in_parts(EVAL_BATCH)])
    asked = [bundle.manifest.classes.index(name) for name in setting.dataset.classes]
    return rows.clamp(min=1e-30).log()[:, asked].log_softmax(1)


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
