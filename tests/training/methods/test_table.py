"""docs/methods.md says what the code is."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.training.methods.test_pgn import COUNTS
from training.methods import METHODS
from training.methods.table import methods_table

PAGE = (Path(__file__).resolve().parents[3] / "docs" / "methods.md").read_text()


def test_the_table_is_the_registrys() -> None:
    """`python -m training.methods.table` prints what belongs there; the formulas themselves are tested by counting."""
    assert methods_table() in PAGE


def test_every_method_has_one_row() -> None:
    """In the order in which comparisons list them."""
    assert [line.split("`")[1] for line in methods_table().splitlines()[2:]] == list(METHODS)


@pytest.mark.parametrize(("library", "projection"), COUNTS)
def test_the_formulas_of_the_variants_are_the_counted_ones(library: str, projection: str) -> None:
    """They are evaluated against real generators in test_pgn."""
    assert f"| `{library}` | `{projection}` | `{COUNTS[library, projection]}` |" in PAGE
