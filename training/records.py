"""Records as the text of a CSV file: a line of names, then a row each."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any


def as_csv(records: Sequence[Mapping[str, Any]]) -> str:
    """The records, which have the same keys; floats to six digits after the point, None as nothing."""
    text = io.StringIO()
    writer = csv.DictWriter(text, records[0] if records else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(
        {name: round(value, 6) if isinstance(value, float) else value for name, value in record.items()}
        for record in records
    )
    return text.getvalue()
