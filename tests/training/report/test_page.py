"""The HTML page: whole in itself, well-formed, and with everything that was promised."""

from __future__ import annotations

import re
from collections import Counter
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pytest

from pgn.errors import UsageError
from training.report import chapter
from training.report.chapter import ClassRow
from training.report.page import write_page

_VOID = {"meta", "link", "img", "br", "input", "hr", "path", "use", "rect", "circle", "image"}


class Outline(HTMLParser):
    """Headings, sources, ids, pictures without words, and tags that do not close."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.headings: list[tuple[int, str]] = []
        self.sources: list[str] = []
        self.ids: Counter[str] = Counter()
        self.unnamed: list[str] = []
        self.open: list[str] = []
        self._heading: int | None = None
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag not in _VOID:
            self.open.append(tag)
        if "id" in given:
            self.ids[given["id"] or ""] += 1
        self.sources += [given[name] or "" for name in ("src", "href", "xlink:href") if name in given]
        if tag == "img" and not given.get("alt"):
            self.unnamed.append(tag)
        if tag == "svg" and not given.get("aria-label"):
            self.unnamed.append(tag)
        if re.fullmatch("h[1-6]", tag):
            self._heading = int(tag[1])
            self.headings.append((self._heading, ""))

    def handle_data(self, data: str) -> None:
        if self._heading:
            level, text = self.headings[-1]
            self.headings[-1] = level, text + data

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in _VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        if tag in _VOID:
            return
        assert self.open.pop() == tag
        if re.fullmatch("h[1-6]", tag):
            self._heading = None


@pytest.fixture(scope="module")
def text(runs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> str:
    """The page about both runs."""
    out = tmp_path_factory.mktemp("page") / "report.html"
    write_page([runs["pgn"], runs["linear"]], out)
    return out.read_text()


@pytest.fixture(scope="module")
def outline(text: str) -> Outline:
    """The same, taken apart."""
    return Outline(text)


def test_nothing_is_loaded_from_anywhere(text: str, outline: Outline) -> None:
    """The page can be mailed, archived, and read on a plane."""
    assert [source for source in outline.sources if not source.startswith(("data:", "#"))] == []
    assert not re.search(r"url\((?!#)|@import|<script", text)


def test_the_page_is_well_formed(outline: Outline) -> None:
    """Every tag closes, and every id is one place: figures share no clip path."""
    assert outline.open == []
    assert [name for name, count in outline.ids.items() if count > 1] == []


def test_two_chapters_of_the_same_run_share_no_id(runs: dict[str, Path], tmp_path: Path) -> None:
    """Their figures are drawn alike and have the same words."""
    write_page([runs["linear"], runs["linear"]], tmp_path / "page.html")
    ids = Outline((tmp_path / "page.html").read_text()).ids
    assert [name for name, count in ids.items() if count > 1] == []


def test_every_picture_has_words(outline: Outline) -> None:
    """For who does not see them."""
    assert outline.unnamed == []


def test_headings_step_down_one_at_a_time(outline: Outline) -> None:
    """One h1, and no level is left out."""
    levels = [level for level, _ in outline.headings]
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))


def test_every_run_has_its_answers_and_a_served_one_what_its_prompts_do(outline: Outline) -> None:
    """A rival's mistakes can be looked at beside the PGN's; the map of the prompts is at the end."""
    titles = [title for _, title in outline.headings]
    assert titles == [
        "digits",
        "Results",
        "pgn on digits, seed 0",
        "Loss over the epochs",
        "Accuracy over the epochs",
        "Is it as right as it is sure?",
        "Class by class",
        "Confusion matrix",
        "Wrong while most sure",
        "Where the class token looks",
        "Attention paid to each prompt",
        "Use of the library",
        "What knows the classes?",
        "What tokens stand for",
        *(title for title in titles if title.startswith("Token ")),
        "linear on digits, seed 0",
        "Loss over the epochs",
        "Accuracy over the epochs",
        "Is it as right as it is sure?",
        "Class by class",
        "Confusion matrix",
        "Wrong while most sure",
        "Map of the prompts",
        "Prompts on toy, 4 an image",
    ]


def test_it_fits_a_phone_and_the_night(text: str) -> None:
    """What is wide scrolls in its own box, and colours follow the reader's choice."""
    assert '<meta name="viewport" content="width=device-width, initial-scale=1">' in text
    assert "prefers-color-scheme: dark" in text
    assert len(re.findall("<table", text)) == len(re.findall(r'<div class="wide[^>]*>\s*<table', text))


def test_a_table_of_a_few_classes_is_whole_and_its_bars_start_at_one_edge(text: str) -> None:
    """A box that scrolls inside a page that scrolls hides rows; right of a bar stands a number of one width."""
    assert 'class="wide classes"' not in text
    assert text.count('<span class="bar"') == text.count('</span><span class="number">') == 20


def test_a_table_of_very_many_classes_scrolls_and_says_so(
    runs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thousand rows would push everything else out of sight."""
    row = ClassRow("a class", 1, 1.0, "–")
    monkeypatch.setattr(chapter, "_class_rows", lambda names, confusion: [row] * 21)
    write_page([runs["linear"]], tmp_path / "page.html")
    written = (tmp_path / "page.html").read_text()
    assert 'class="wide classes"' in written
    assert "The hardest class first; the table scrolls." in written


def test_figures_take_the_colour_of_the_page(text: str) -> None:
    """No black text in the dark."""
    assert "currentColor" in text
    assert "#010203" not in text


def test_names_of_classes_cannot_break_the_page(text: str, runs: dict[str, Path], tmp_path: Path) -> None:
    """A title is text, whatever is in it."""
    write_page([runs["linear"]], tmp_path / "page.html", title="<b>&")
    assert "<h1>&lt;b&gt;&amp;</h1>" in (tmp_path / "page.html").read_text()


def test_a_bundle_without_its_folder_is_enough(runs: dict[str, Path], tmp_path: Path) -> None:
    """Only its curves are missing."""
    (bundle,) = runs["pgn"].glob("*.safetensors")
    alone = tmp_path / bundle.name
    alone.write_bytes(bundle.read_bytes())
    write_page([alone], tmp_path / "page.html")
    titles = [title for _, title in Outline((tmp_path / "page.html").read_text()).headings]
    assert "Confusion matrix" in titles
    assert "Loss over the epochs" not in titles


def test_a_run_that_has_not_ended_is_refused(tmp_path: Path) -> None:
    """There is nothing to report of it yet."""
    with pytest.raises(UsageError, match="holds no finished run"):
        write_page([tmp_path], tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()
