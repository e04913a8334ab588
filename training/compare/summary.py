"""What the finished cells say together: for each row, set and data fraction the mean and spread over the seeds.

Where candidates were searched, validation alone chooses; only the chosen one's test scores go any further.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean, stdev
from typing import Any, Final

from training.compare.grid import Cell, Grid, Options
from training.compare.runner import error_of, result_of
from training.result import RunResult
from training.scores import top1

PROBE: Final = "linear probe"  # fitted in every run, so it needs no cells of its own


@dataclass(frozen=True)
class Outcome:
    """A cell and how it went; neither `result` nor `error` before it has been run."""

    cell: Cell
    result: RunResult | None
    error: str | None


@dataclass(frozen=True)
class Group:
    """One place in the table: a row on a set with a share of its training images, over the seeds.

    Attributes:
        row: Name of the row.
        set: Name of the column.
        fraction: Share of the training images.
        outcomes: One for each planned seed, of the chosen candidate where there were several.
        chosen: What validation chose; empty without a search.
        candidates: How many there are, and how many of them could be judged; (1, 1) without a search.
    """

    row: str
    set: str
    fraction: float
    outcomes: tuple[Outcome, ...]
    chosen: Options = field(default_factory=dict)
    candidates: tuple[int, int] = (1, 1)

    @property
    def results(self) -> tuple[RunResult, ...]:
        """Of the finished seeds."""
        return tuple(outcome.result for outcome in self.outcomes if outcome.result)

    @property
    def is_complete(self) -> bool:
        """Whether all planned seeds of all candidates are finished."""
        return len(self.results) == len(self.outcomes) and self.candidates[0] == self.candidates[1]

    @property
    def test(self) -> dict[int, float]:
        """Top-1 on test, 0..1, by seed."""
        return {result.seed: top1(result.test) for result in self.results}

    @property
    def val(self) -> dict[int, float]:
        """Top-1 on validation, 0..1, by seed."""
        return {result.seed: top1(result.val) for result in self.results}


@dataclass(frozen=True)
class Summary:
    """The grid with its outcomes; `groups` is keyed by (row, set, fraction) and holds only what was planned."""

    grid: Grid
    outcomes: tuple[Outcome, ...]
    groups: dict[tuple[str, str, float], Group]

    @property
    def rows(self) -> tuple[str, ...]:
        """Names of the rows; the linear probe's first, where a run has measured it."""
        return tuple(dict.fromkeys(row for row, _, _ in self.groups))

    @property
    def sets(self) -> tuple[str, ...]:
        """Names of the columns."""
        return tuple(dict.fromkeys(name for _, name, _ in self.groups))

    @property
    def fractions(self) -> tuple[float, ...]:
        """Shares of the training images, ascending."""
        return tuple(sorted({fraction for _, _, fraction in self.groups}))

    def rows_of(self, table: str) -> tuple[str, ...]:
        """The rows that stand in `table`; the linear probe stands in every one."""
        entries = self.grid.methods
        return tuple(row for row in self.rows if row not in entries or table in entries[row].tables)

    @property
    def tables(self) -> tuple[str, ...]:
        """Names of the tables; one empty name if the rows are not divided."""
        return tuple(dict.fromkeys(table for entry in self.grid.methods.values() for table in entry.tables))

    def group(self, row: str, name: str, fraction: float = 1.0) -> Group | None:
        """The group at that place, or None if nothing was planned there."""
        return self.groups.get((row, name, fraction))

    def row_results(self, row: str) -> tuple[RunResult, ...]:
        """All results of a row that count."""
        return tuple(result for group in self.groups.values() if group.row == row for result in group.results)

    def common_sets(self, rows: Sequence[str], fraction: float = 1.0) -> tuple[str, ...]:
        """The sets on which all these rows are complete: what their means may be compared on.

        A union is none of them: its images are those of other sets, and would count twice.
        """
        return tuple(
            name
            for name in self.sets
            if isinstance(self.grid.sets[name].dataset, str)
            and all((group := self.group(row, name, fraction)) and group.is_complete for row in rows)
        )


def summarise(grid: Grid, out: Path) -> Summary:
    """Read the cells' folders under `out`.

    Raises:
        UsageError: A finished cell was run with other options than the grid has now.
    """
    outcomes = tuple(Outcome(cell, result_of(out, cell), error_of(out, cell)) for cell in grid.cells())
    places: dict[tuple[str, str, float], list[Outcome]] = {}
    for outcome in outcomes:
        cell = outcome.cell
        places.setdefault((cell.row, cell.set, cell.fraction), []).append(outcome)
    groups = {place: _choose(*place, found) for place, found in places.items()}
    return Summary(grid, outcomes, {**_probes(groups), **groups})


def _choose(row: str, name: str, fraction: float, outcomes: Sequence[Outcome]) -> Group:
    """The candidate with the best mean validation over the seeds, among those of which every seed is finished."""
    candidates: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        candidates.setdefault(repr(outcome.cell.searched), []).append(outcome)
    judged = [found for found in candidates.values() if all(outcome.result for outcome in found)]
    best = max(judged, key=_mean_val) if judged else next(iter(candidates.values()))
    return Group(
        row=row,
        set=name,
        fraction=fraction,
        outcomes=tuple(best),
        chosen=best[0].cell.searched if judged else {},
        candidates=(len(candidates), len(judged)) if len(candidates) > 1 else (1, 1),
    )


def _mean_val(outcomes: Iterable[Outcome]) -> float:
    return mean(top1(outcome.result.val) for outcome in outcomes if outcome.result)


def _probes(groups: dict[tuple[str, str, float], Group]) -> dict[tuple[str, str, float], Group]:
    """The linear probe as one more row; left out where runs saw different features, so where it is not one number."""
    found: dict[tuple[str, str, float], list[Outcome]] = {}
    for group in groups.values():
        found.setdefault((PROBE, group.set, group.fraction), []).extend(o for o in group.outcomes if o.result)
    return {
        place: Group(*place, outcomes=(_as_probe(max(outcomes, key=_head_parameters)),))
        for place, outcomes in found.items()
        if len({_probe_scores(outcome.result) for outcome in outcomes}) == 1
    }


def _probe_scores(result: RunResult | None) -> tuple[float, float]:
    assert result
    return top1(result.linear_probe["val"]), top1(result.linear_probe["test"])


def _head_parameters(outcome: Outcome) -> int:
    """Of a trained head on the ViT's features, 0 for any other: a fixed one, or one on another network's."""
    result = outcome.result
    assert result
    return result.trained_parameters - result.adapted_parameters if result.reach != "nothing" else 0


def _as_probe(outcome: Outcome) -> Outcome:
    """The outcome that the probe of this run would have as a run of its own."""
    assert outcome.result
    probe: dict[str, Any] = outcome.result.linear_probe
    changes = {
        "method": PROBE,
        "val": probe["val"],
        "test": probe["test"],
        "reach": "output",
        "input_only": False,
        "served": False,
        "trained_parameters": _head_parameters(outcome),
        "adapted_parameters": 0,
        "seconds": 0.0,
    }
    return Outcome(outcome.cell, outcome.result.model_copy(update=changes), None)


def spread(values: Sequence[float]) -> float | None:
    """Standard deviation over seeds; None for fewer than two."""
    return stdev(values) if len(values) > 1 else None


def mean_over_sets(groups: Sequence[Group]) -> tuple[float, float | None]:
    """Mean test top-1 of these complete groups, and its standard deviation over the seeds that all of them have."""
    shared = set.intersection(*(set(group.test) for group in groups))
    by_seed = [mean(group.test[seed] for group in groups) for seed in sorted(shared)]
    alike = all(set(group.test) == shared for group in groups)
    return mean(mean(group.test.values()) for group in groups), spread(by_seed) if alike else None
