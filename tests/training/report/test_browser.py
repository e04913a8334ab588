"""The page in a real browser: whole without a network, and as wide as the phone that it is read on."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from training.report.page import write_page

_CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(_CHROMIUM is None, reason="no Chromium to look at the page with")

# The page in a frame as wide as the screen, for a window is never narrower than 500 px; then what a reader meets.
_FRAME = """<!doctype html><iframe id=page width={width} height=800 srcdoc="{page}"></iframe><pre id=seen></pre><script>
onload = () => {{
  const page = document.getElementById("page").contentDocument
  const pictures = [...page.images]
  document.getElementById("seen").textContent = JSON.stringify({{
    title: page.title,
    width: page.documentElement.clientWidth,
    content: page.documentElement.scrollWidth,
    pictures: pictures.length,
    broken: pictures.filter(picture => !(picture.complete && picture.naturalWidth)).length,
    figures: page.querySelectorAll("svg").length,
    empty: [...page.querySelectorAll("svg")].filter(figure => !figure.getBoundingClientRect().height).length,
    lost: [...page.querySelectorAll("a[href^='#']")].filter(link => !page.getElementById(link.hash.slice(1))).length,
  }})
}}
</script>"""


@dataclass(frozen=True)
class Seen:
    """What the browser made of the page."""

    title: str
    width: int
    content: int
    pictures: int
    broken: int
    figures: int
    empty: int
    lost: int


def _look(page: Path, width: int) -> Seen:
    """Open the page on a screen of this width, without a network."""
    frame = page.with_name("frame.html")
    frame.write_text(_FRAME.format(width=width, page=html.escape(page.read_text())))
    assert _CHROMIUM is not None
    flags = [
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--proxy-server=127.0.0.1:9",
        f"--user-data-dir={page.parent / 'profile'}",
    ]
    done = subprocess.run(
        [_CHROMIUM, *flags, "--dump-dom", frame.as_uri()], capture_output=True, text=True, timeout=300, check=True
    )
    found = re.search('<pre id="seen">(.+?)</pre>', done.stdout)
    assert found, done.stderr
    return Seen(**json.loads(html.unescape(found[1])))


@pytest.fixture(scope="module")
def page(runs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page with every section."""
    out = tmp_path_factory.mktemp("browser") / "report.html"
    write_page([runs["pgn"], runs["linear"]], out, title="Seen")
    return out


@pytest.mark.parametrize("width", [360, 1280])
def test_nothing_is_wider_than_the_screen(page: Path, width: int) -> None:
    """Phone and desk: only what has its own box scrolls sideways."""
    seen = _look(page, width)
    assert seen.title == "PGN report: Seen"
    assert 0 < seen.content <= seen.width <= width


def test_pictures_figures_and_links_are_there(page: Path) -> None:
    """All of them drawn, from the file alone; every link of the page leads somewhere."""
    seen = _look(page, 1280)
    assert seen.pictures
    assert not seen.broken
    assert seen.figures
    assert not seen.empty
    assert not seen.lost
