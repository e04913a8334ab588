"""The methods as the table of docs/methods.md: `python -m training.methods.table` prints it."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterable

from training.methods import METHODS
from training.result import Reach

HEADINGS = (
    "`--method`",
    "what it is",
    "values that learn, without the head",
    "needs of the ViT",
    "input-only",
    "served",
)
NEEDS: dict[Reach, str] = {
    "nothing": "nothing: no ViT at all",
    "output": "its features",
    "input": "a place in its input",
    "inner": "its inner tokens",
    "weights": "weights of its own",
}


def methods_table() -> str:
    """One row a method, in the order of the registry; each class says what it is in its first line."""
    lines = [_row([*HEADINGS, "source"]), _row(["---"] * (len(HEADINGS) + 1))]
    for name, method in METHODS.items():
        what = (inspect.getdoc(type(method)) or "").splitlines()[0].rstrip(".")
        input_only, served = ("yes" if each else "no" for each in (method.reach == "input", method.served))
        cells = (f"`{name}`", what, f"`{method.parameters}`", NEEDS[method.reach], input_only, served, method.source)
        lines.append(_row(cells))
    return "\n".join(lines) + "\n"


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    sys.stdout.write(methods_table())
