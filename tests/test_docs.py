"""The documents are true: every error, setting and command has its place in them."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from pgn.errors import (
    ERRORS,
    ArtefactError,
    BundleIncompatible,
    BundleInvalid,
    DiskFull,
    MessageInvalid,
    SetupError,
    SignatureInvalid,
)
from pgn.settings import Settings
from training.config import defaults_for

ROOT = Path(__file__).resolve().parents[1]


def _over_http() -> list[str]:
    local = (ArtefactError, SetupError)  # these are met on the machine itself, and by a client only where he uploads
    uploads = (BundleInvalid, BundleIncompatible, SignatureInvalid, DiskFull, MessageInvalid)
    return [code for code, cls in ERRORS.items() if not issubclass(cls, local) or cls in uploads]


@pytest.mark.parametrize("code", _over_http())
def test_every_error_of_the_api_has_its_row(code: str) -> None:
    """Who meets a code finds it in docs/http.md with the status it comes with."""
    page = (ROOT / "docs/http.md").read_text()
    assert re.search(rf"^\| {ERRORS[code].status} \| `{re.escape(code)}` \|", page, re.M)


def test_the_error_table_names_nothing_else() -> None:
    """A code that is gone from the product is gone from the page."""
    page = (ROOT / "docs/http.md").read_text()
    assert sorted(re.findall(r"^\| \d+ \| `([\w.]+)` \|", page, re.M)) == sorted(_over_http())


@pytest.mark.parametrize("name", Settings.model_fields)
def test_every_setting_has_its_row(name: str) -> None:
    """docs/settings.md has each setting under the name of its environment variable."""
    assert f"| `PGN_{name.upper()}` |" in (ROOT / "docs/settings.md").read_text()


@pytest.mark.parametrize(
    ("images", "row"),
    [(499, "under 500"), (1999, "500 to 1,999"), (9999, "2,000 to 9,999"), (10**6, "10,000 and more")],
)
def test_the_defaults_by_number_of_images_are_the_programs(images: int, row: str) -> None:
    """docs/your-images.md promises what `pgn train` does."""
    recipe = defaults_for(images)
    cells = (
        f"{row} | {recipe.epochs} | {recipe.num_prompts} | {recipe.library_size} | {recipe.batch_size} "
        f"| {recipe.library_rate:g} | {recipe.encoder_rate:g} | {recipe.head_rate:g}"
    )
    assert f"| {cells} |" in (ROOT / "docs/your-images.md").read_text()


def test_the_command_line_page_is_what_help_says() -> None:
    """docs/cli.md cannot fall behind the program; `make docs` writes it anew."""
    command = [sys.executable, "-m", "typer", "pgn.cli", "utils", "docs", "--name", "pgn"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert printed.strip() == (ROOT / "docs/cli.md").read_text().strip()


def test_the_metrics_page_lists_every_metric() -> None:
    """docs/metrics.md has what the program writes, with its labels; `make docs` writes it anew."""
    command = [sys.executable, ".ci/metrics_page.py"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout
    assert printed.strip() in (ROOT / "docs/metrics.md").read_text()


def test_links_between_documents_lead_somewhere() -> None:
    """No page points at a file that is not there."""
    pages = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("model_store/**/*.md")]
    broken = [
        f"{page.relative_to(ROOT)}: {target}"
        for page in pages
        for target in re.findall(r"\]\((?!https?:|#|mailto:)([^)#\s]+)", page.read_text())
        if not (page.parent / target).exists()
    ]
    assert broken == []
