"""Records as CSV."""

from __future__ import annotations

from training.records import as_csv


def test_a_line_of_names_then_a_row_each() -> None:
    """Floats to six digits, nothing for None, quotes where a value needs them."""
    records = [{"name": "a, b", "seed": None, "top1": 2 / 3}, {"name": "c", "seed": 1, "top1": 0.5}]
    assert as_csv(records) == 'name,seed,top1\n"a, b",,0.666667\nc,1,0.5\n'


def test_no_records_are_no_rows() -> None:
    """A grid whose cells all failed."""
    assert as_csv([]) == "\n"
