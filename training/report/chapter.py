"""What the report says of one run: its curves, its answers, and of a bundle what looking into it has found."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from markupsafe import Markup
from pydantic import BaseModel, ValidationError
from torch import Tensor

from pgn.errors import ArtefactError
from training.analysis.answers import Answers
from training.analysis.clusters import LABELS, mutual_information, vectors_of
from training.analysis.confidence import Reliability, reliability
from training.analysis.mistakes import class_accuracies, most_confused, surest_mistakes
from training.analysis.study import Study
from training.analysis.subject import Subject
from training.analysis.tokens import Usage, library_usage, token_gallery
from training.evaluate import confusion_matrix
from training.report.figures import accuracy_curve, bars, loss_curve, reliability_diagram
from training.report.pictures import picture, with_attention, with_shares
from training.report.standings import Standing
from training.run import LOG_FILE

MOST_CELLS = 20  # classes of a confusion matrix that is written out as a table; a larger one is a picture
WRONG, TOKENS, OF_TOKEN, LOOKED_AT, CONFUSED = 12, 6, 6, 6, 8


class Epoch(BaseModel):
    """What the curves need of one line of log.jsonl."""

    epoch: int
    train_loss: float
    train_top1: float
    val_loss: float
    val_balanced: float


@dataclass(frozen=True)
class ClassRow:
    """How one class fares: images of it, share answered rightly, and the wrong answer it gets most."""

    name: str
    images: int
    accuracy: float | None
    mistaken_for: str


@dataclass(frozen=True)
class WrongAnswer:
    """An image, its class, what was answered instead, and how sure the bundle was."""

    picture: str
    label: str
    answer: str
    confidence: float


@dataclass(frozen=True)
class Shown:
    """An image, its class, and the token's share in its prompts."""

    picture: str
    label: str
    share: float


@dataclass(frozen=True)
class Token:
    """A token of the library, by its number, with the images that use it most."""

    number: int
    images: list[Shown]


@dataclass(frozen=True)
class LookedAt:
    """An image, and where the class token looks without and with prompts; `on_prompts` is the share that these get."""

    label: str
    picture: str
    plain: str
    prompted: str
    on_prompts: float


@dataclass(frozen=True)
class Answered:
    """How a method's answers are, of whatever method."""

    classes: list[ClassRow]
    confusion: list[list[int]] | None
    confusion_picture: str | None
    confused: list[tuple[str, str, int]]
    wrong: list[WrongAnswer]
    wrong_count: int
    images: int
    calibration: Reliability
    calibration_figure: Markup


@dataclass(frozen=True)
class Insight:
    """What a bundle's prompts do inside the frozen ViT."""

    usage: Usage | None
    usage_figure: Markup | None
    gallery: list[Token]
    looked_at: list[LookedAt]
    on_prompts: float
    prompts_figure: Markup
    information: dict[tuple[str, str], float]
    groupings: list[str]

    def shared(self, one: str, other: str) -> float | None:
        """Mutual information of two groupings, in either order; None for one with itself."""
        return self.information.get((one, other), self.information.get((other, one)))


@dataclass(frozen=True)
class Chapter:
    """One run of the report; without `insight` if its method makes no bundle."""

    standing: Standing
    curves: list[Markup]
    command: str
    class_names: tuple[str, ...]
    answered: Answered
    insight: Insight | None


def write_chapter(
    standing: Standing,
    folder: Path,
    command: str,
    answers: Answers,
    insight: Insight | None = None,
) -> Chapter:
    """The chapter of a run in `folder`, which `command` made.

    Raises:
        ArtefactError: A line of its log is damaged.
    """
    return Chapter(standing, _curves(standing, folder / LOG_FILE), command, answers.classes, _judge(answers), insight)


def _curves(standing: Standing, log: Path) -> list[Markup]:
    history = _read_history(log) if log.exists() else []
    if not history:
        return []
    return [
        loss_curve(history, alt=f"Training and validation loss of {standing.name}"),
        accuracy_curve(history, standing.probe_val, alt=f"Training and validation accuracy of {standing.name}"),
    ]


def _read_history(log: Path) -> list[dict[str, Any]]:
    history = []
    for number, line in enumerate(log.read_bytes().splitlines(), start=1):
        try:
            history.append(Epoch.model_validate_json(line).model_dump())
        except ValidationError as error:
            raise ArtefactError(
                f"line {number} of {log} is no record of an epoch",
                hint="delete the file, the report is then without curves",
            ) from error
    return history


def _judge(answers: Answers) -> Answered:
    probabilities, labels, names = answers.probabilities, answers.images.labels, answers.classes
    confusion = confusion_matrix(probabilities.argmax(1), labels, len(names))
    sure = reliability(probabilities, labels)
    return Answered(
        classes=_class_rows(names, confusion),
        confusion=confusion.tolist() if len(names) <= MOST_CELLS else None,
        confusion_picture=with_shares(confusion) if len(names) > MOST_CELLS else None,
        confused=[(names[label], names[answer], count) for label, answer, count in most_confused(confusion, CONFUSED)],
        wrong=[
            WrongAnswer(
                picture(answers.images.pixels(torch.tensor([mistake.image]))[0]),
                names[mistake.label],
                names[mistake.answer],
                mistake.confidence,
            )
            for mistake in surest_mistakes(probabilities, labels, WRONG)
        ],
        wrong_count=int(confusion.sum() - confusion.diag().sum()),
        images=len(labels),
        calibration=sure,
        calibration_figure=reliability_diagram(sure, alt="Accuracy against confidence"),
    )


def look_inside(subject: Subject, found: Study) -> Insight:
    """What the prompts of the subject do, as its study has found."""
    vectors = vectors_of(found)
    usage = library_usage(found.mixture) if found.mixture is not None else None
    patches = subject.predictor.backbone.grid**2
    on_prompts = found.attention[:, patches:]
    return Insight(
        usage=usage,
        usage_figure=_usage_figure(usage) if usage else None,
        gallery=_gallery(subject, found),
        looked_at=_looked_at(subject, found),
        on_prompts=on_prompts.sum(1).mean().item(),
        prompts_figure=bars(
            (100 * on_prompts.mean(0)).tolist(),
            xlabel="prompt",
            ylabel="attention, %",
            level=100 * found.attention[:, :patches].mean().item(),
            level_name="a patch, on average",
            alt="Attention of the class token to each prompt",
        ),
        information=mutual_information(vectors, found.labels),
        groupings=[*vectors, LABELS],
    )


def _class_rows(names: tuple[str, ...], confusion: Tensor) -> list[ClassRow]:
    """The worst class first."""
    often, mistaken = confusion.clone().fill_diagonal_(0).max(1)
    rows = [
        ClassRow(
            name=name,
            images=int(confusion[label].sum()),
            accuracy=accuracy,
            mistaken_for=f"{names[int(mistaken[label])]} ({int(often[label])})" if often[label] else "–",
        )
        for label, (name, accuracy) in enumerate(zip(names, class_accuracies(confusion), strict=True))
    ]
    return sorted(rows, key=lambda row: math.inf if row.accuracy is None else row.accuracy)


def _usage_figure(usage: Usage) -> Markup:
    shares = (100 * usage.shares.sort(descending=True).values).tolist()
    return bars(
        shares,
        xlabel="tokens, the most used first",
        ylabel="share of the prompts, %",
        level=100 / len(shares),
        level_name="all alike",
        alt="Share of each library token in the prompts",
    )


def _gallery(subject: Subject, found: Study) -> list[Token]:
    if found.mixture is None:
        return []
    return [
        Token(
            number,
            [Shown(picture(_pixels(subject, found, row)), _name(subject, found, row), share) for row, share in best],
        )
        for number, best in token_gallery(found.mixture, TOKENS, OF_TOKEN)
    ]


def _looked_at(subject: Subject, found: Study) -> list[LookedAt]:
    """Images spread over the studied ones; both heat maps of an image have the same scale."""
    grid = subject.predictor.backbone.grid
    rows = torch.linspace(0, len(found.labels) - 1, min(LOOKED_AT, len(found.labels))).long().tolist()
    seen = []
    for row in rows:
        pixels = _pixels(subject, found, row)
        plain, prompted = found.attention_plain[row], found.attention[row, : grid**2]
        top = max(plain.max(), prompted.max()).item()
        seen.append(
            LookedAt(
                label=_name(subject, found, row),
                picture=picture(pixels),
                plain=with_attention(pixels, plain.view(grid, grid) / top),
                prompted=with_attention(pixels, prompted.view(grid, grid) / top),
                on_prompts=found.attention[row, grid**2 :].sum().item(),
            )
        )
    return seen


def _pixels(subject: Subject, found: Study, row: int) -> Tensor:
    """(S, S, 3) uint8 of a studied image."""
    return subject.images.pixels(found.indices[row : row + 1])[0]


def _name(subject: Subject, found: Study, row: int) -> str:
    """The class of a studied image."""
    return subject.classes[int(found.labels[row])]
