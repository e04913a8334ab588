"""From runs and bundles to the HTML page: the table of all, a chapter for each bundle, and the map of their prompts."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape
from torch import Tensor

from pgn import __version__
from pgn.bundle import read_bundle, write_atomically
from pgn.errors import UsageError
from training.analysis.answers import answers_of, answers_of_run
from training.analysis.clusters import prompt_map
from training.analysis.study import Study, study
from training.analysis.subject import Subject, open_subject
from training.config import command
from training.data.dataset import SplitName
from training.disk import clear_disk_errors
from training.report.chapter import Chapter, look_inside, write_chapter
from training.report.figures import scatter
from training.report.standings import Standing, standing_of_bundle, standing_of_run
from training.result import read_result
from training.run import config_of_bundle, config_of_run

_MOST_COLOURS = 20  # more groups than that nobody tells apart
_ON_MAP = 400  # images of one bundle on the map


@dataclass(frozen=True)
class PromptMap:
    """All bundles whose prompts live in the same space, on one plane."""

    title: str
    words: str
    figure: Markup


def write_page(
    paths: Sequence[Path],
    out: Path,
    *,
    backbone: Path | None = None,
    split: SplitName = "test",
    data_dir: Path | None = None,
    title: str | None = None,
) -> None:
    """Write the page about these runs and bundles to `out`.

    Args:
        paths: Folders of finished runs, of any method, and bundle files; what prompts do is looked into for bundles.
        out: The HTML file.
        backbone: Folder of the frozen ViT, if it has moved.
        split: The images that bundles are asked about.
        data_dir: Folder of the images, if they have moved.
        title: Of the page; by default the names of the data sets.

    Raises:
        UsageError: A folder holds no finished run, or a bundle does not say how it was trained.
        PgnError: What reading bundles, backbone and images raises.
    """
    standings, chapters, looked_into = [], [], []
    for path in paths:
        folder = path if path.is_dir() else path.parent
        standing = _standing(path)
        standings.append(standing)
        if standing.bundle:
            subject = open_subject(folder / standing.bundle, backbone=backbone, split=split, data_dir=data_dir)
            found = study(subject)
            looked_into.append((subject, found))
            answers, insight = answers_of(subject), look_inside(subject, found)
            chapters.append(
                write_chapter(standing, folder, command(config_of_bundle(subject.bundle)), answers, insight)
            )
        else:
            answers = answers_of_run(folder, backbone=backbone, split=split, data_dir=data_dir)
            chapters.append(write_chapter(standing, folder, command(config_of_run(folder)), answers))
    page = _render(
        title=title or ", ".join(dict.fromkeys(standing.dataset for standing in standings)),
        split=split,
        standings=standings,
        chapters=chapters,
        maps=_maps(looked_into),
    )
    with clear_disk_errors(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(out, page.encode())


def _standing(path: Path) -> Standing:
    if not path.is_dir():
        return standing_of_bundle(path.name, read_bundle(path).manifest)
    result = read_result(path)
    if result is None:
        raise UsageError(f"{path} holds no finished run", hint="give the --out folder of a `pgn train` that has ended")
    return standing_of_run(result)


def _maps(looked_into: Sequence[tuple[Subject, Study]]) -> list[PromptMap]:
    """One map for each backbone and number of prompts: only such prompts can be compared."""
    spaces: dict[tuple[str, int], list[tuple[Subject, Study]]] = {}  # by digest: a name may stand for two ViTs
    for subject, found in looked_into:
        if subject.bundle.manifest.generator.encoder != "none":  # the others are one point each
            manifest = subject.bundle.manifest
            spaces.setdefault((manifest.backbone.digest, manifest.generator.num_prompts), []).append((subject, found))
    return [_map(members[0][0].bundle.manifest.backbone.name, k, members) for (_, k), members in spaces.items()]


def _map(backbone: str, count: int, members: Sequence[tuple[Subject, Study]]) -> PromptMap:
    prompts, groups = [], []
    for subject, found in members:
        rows = torch.linspace(0, len(found.labels) - 1, min(_ON_MAP, len(found.labels))).long()
        prompts.append(found.prompts[rows])
        twins = sum(other.bundle.manifest.dataset == subject.bundle.manifest.dataset for other, _ in members)
        name = f"{subject.bundle.manifest.dataset} {subject.bundle.version[:6]}" if twins > 1 else None
        groups += _groups(subject, found.labels[rows], alone=len(members) == 1, name=name)
    names = list(dict.fromkeys(groups))
    figure = scatter(prompt_map(torch.cat(prompts)), groups, alt=f"Map of the prompts of {', '.join(names)}")
    words = (
        f"Each point is one image: all {count} prompts that its PGN wrote for {backbone}, by t-SNE. Near points have "
        "alike prompts; distances between far groups mean nothing."
    )
    return PromptMap(f"Prompts on {backbone}, {count} an image", words, figure)


def _groups(subject: Subject, labels: Tensor, *, alone: bool, name: str | None) -> list[str]:
    """What colours the points: the set, in a union the source; the class, if there is but one set of few classes.

    `name` stands for the set where several bundles are of the same one.
    """
    manifest = subject.bundle.manifest
    if manifest.class_sources and not name:
        return [manifest.class_sources[label] for label in labels.tolist()]
    if alone and len(manifest.classes) <= _MOST_COLOURS:
        return [manifest.classes[label] for label in labels.tolist()]
    return [name or manifest.dataset] * len(labels)


def _render(
    *, title: str, split: str, standings: Sequence[Standing], chapters: Sequence[Chapter], maps: Sequence[PromptMap]
) -> str:
    environment = Environment(
        loader=PackageLoader("training.report", package_path=""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = lambda share: "–" if share is None else f"{100 * share:.1f}"
    environment.filters["soft"] = lambda name: Markup("_<wbr>").join(escape(name).split("_"))  # may break at a _
    environment.filters["count"] = lambda number: "–" if number is None else f"{number:,}"
    return environment.get_template("page.html").render(
        title=title,
        split=split,
        standings=standings,
        chapters=chapters,
        maps=maps,
        version=__version__,
        made=datetime.date.today().isoformat(),
    )
