"""A summary as Markdown for people and as CSV for programs: one row a cell, and one row a group of seeds."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import mean, median
from typing import Any

from training.compare.summary import PROBE, Group, Outcome, Summary, mean_over_sets, spread
from training.records import as_csv
from training.result import RunResult
from training.scores import top1

NOT_PLANNED = "–"


def markdown(summary: Summary, *, command: str, machines: Sequence[str], pictures: Sequence[str] = ()) -> str:
    """The whole page.

    Args:
        summary: What to show.
        command: What made it.
        machines: On which machines the cells were run, one line each.
        pictures: File names of plots beside the page.
    """
    finished, failed = (
        sum(found is not None for found in kind)
        for kind in ([o.result for o in summary.outcomes], [o.error for o in summary.outcomes if not o.result])
    )
    lines = [f"# {summary.grid.title}", ""]
    if summary.grid.about:
        lines += [summary.grid.about.strip(), ""]
    lines += [
        f"Made by `{command}`: {len(summary.outcomes)} cells, {finished} finished, {failed} failed. "
        "Test top-1 in %, ± the standard deviation over the seeds where there are several; the best of a column is "
        "bold. Validation chose epochs and candidates; each run looked at its test images once. Minutes "
        "are the median of the runs, on cores that may have had other work.",
        "",
        *(f"Run on {machine}." for machine in machines),
        "",
        *(f"![{summary.grid.title}]({picture})\n" for picture in pictures),
    ]
    if len(summary.fractions) > 1:
        for name in summary.sets:
            lines += [f"## {name}, by share of its training images", "", *_fractions_table(summary, name), ""]
    else:
        for table in summary.tables:
            lines += [*([f"## {table}", ""] if table else []), *_sets_table(summary, summary.rows_of(table)), ""]
    lines += [*_union_tables(summary), *_notes(summary)]
    return "\n".join(lines).rstrip() + "\n"


def _sets_table(summary: Summary, rows: Sequence[str]) -> Iterable[str]:
    """Rows by sets, with what each row costs and needs."""
    (fraction,) = summary.fractions
    means = _means_on(summary, rows, fraction)
    heads = [*summary.sets]
    for sets in means:
        heads += [f"mean of {len(sets)}", "over the probe"] if len(sets) > 1 else ["over the probe"]
    heads += ["trained parameters", "without the head", "of the ViT", "input only", "minutes"]
    yield _line(["method", *heads])
    yield _line(["---"] + ["---:"] * len(heads))
    columns = [{row: summary.group(row, name, fraction) for row in rows} for name in summary.sets]
    mean_columns = [
        {row: mean_over_sets(groups) for row in rows if (groups := _complete(summary, row, sets, fraction))}
        for sets in means
    ]
    for row in rows:
        cells = [_value(column, row) for column in columns]
        for sets, column in zip(means, mean_columns, strict=True):
            cells += [_mean_value(column, row)] if len(sets) > 1 else []
            cells += [_over_probe(summary, row, sets, fraction)]
        yield _line([row, *cells, *_costs(summary.row_results(row))])
    sizes = [_sizes(group for group in column.values() if group) for column in columns]
    yield _line(["*images: training / test*", *sizes, *[""] * (len(heads) - len(sizes))])


def _fractions_table(summary: Summary, name: str) -> Iterable[str]:
    yield _line(["method", *(f"{100 * fraction:g} %" for fraction in summary.fractions)])
    yield _line(["---"] + ["---:"] * len(summary.fractions))
    columns = [{row: summary.group(row, name, fraction) for row in summary.rows} for fraction in summary.fractions]
    for row in summary.rows:
        if any(column[row] for column in columns):
            yield _line([row, *(_value(column, row) for column in columns)])
    sizes = [_sizes(group for group in column.values() if group) for column in columns]
    yield _line(["*images: training / test*", *sizes])


def _union_tables(summary: Summary) -> Iterable[str]:
    """For each union: every row on each of its sets, beside the same row trained on that set alone."""
    for union in summary.sets:
        groups = [
            group
            for (_, name, _), group in summary.groups.items()
            if name == union and group.results and group.results[0].test.get("by_source")
        ]
        if not groups:
            continue
        sources = [*groups[0].results[0].test["by_source"]]
        yield f"## {union}: one for all sets, against one for each"
        yield ""
        yield _line(["method", *sources, f"mean of {len(sources)}", "adapted parameters"])
        yield _line(["---"] + ["---:"] * (len(sources) + 2))
        for group in groups:
            together = [{r.seed: r.test["by_source"][source] for r in group.results} for source in sources]
            state = "" if group.is_complete else f" ({len(group.results)} of {len(group.outcomes)} seeds)"
            yield _line([f"{group.row}, one for all{state}", *_by_seed(together), _adapted([group])])
            alone = [found for source in sources if (found := _alone(summary, group, source))]
            if len(alone) == len(sources):
                apart = [found.test for found in alone]
                yield _line([f"{group.row}, one for each", *_by_seed(apart), _adapted(alone)])
        yield ""


def _by_seed(columns: Sequence[dict[int, float]]) -> list[str]:
    """Mean and spread of each column of values by seed, and of their mean over the columns."""
    shared = sorted(set.intersection(*(set(column) for column in columns)))
    alike = all(len(column) == len(shared) for column in columns)
    over_all = [mean(column[seed] for column in columns) for seed in shared]
    cells = [_percent(mean(column.values()), spread([*column.values()])) for column in columns]
    total = mean(mean(column.values()) for column in columns)
    return [*cells, _percent(total, spread(over_all) if alike else None)]


def _alone(summary: Summary, union: Group, source: str) -> Group | None:
    """The same row, trained on nothing but the data set called `source`."""
    for group in summary.groups.values():
        alike = group.row == union.row and group.fraction == union.fraction and group.is_complete
        if alike and group.results[0].dataset == source:
            return group
    return None


def _adapted(groups: Sequence[Group]) -> str:
    return f"{sum(group.results[0].adapted_parameters for group in groups):,}"


def _notes(summary: Summary) -> Iterable[str]:
    """What the tables do not say: choices, gaps, failures."""
    notes = []
    for group in summary.groups.values():
        place = f"{group.row} on {group.set}" + (f", {100 * group.fraction:g} %" if group.fraction != 1 else "")
        count, judged = group.candidates
        if group.chosen:
            chosen = ", ".join(f"{name} {value}" for name, value in group.chosen.items())
            notes.append(f"{place}: validation chose {chosen}, of {judged} candidates.")
        if judged < count:
            notes.append(f"{place}: {judged} of {count} candidates are finished.")
        elif not group.is_complete:
            notes.append(f"{place}: {len(group.results)} of {len(group.outcomes)} seeds are finished.")
    notes += [f"{outcome.cell} failed: {outcome.error}" for outcome in summary.outcomes if outcome.error]
    if notes:
        yield "## Notes"
        yield ""
        yield from (f"- {note}" for note in notes)


def _means_on(summary: Summary, rows: Sequence[str], fraction: float) -> list[tuple[str, ...]]:
    """The sets that a mean is taken over: those that all these rows have, and all sets, if some row has them all."""
    common = summary.common_sets(rows, fraction)
    widest = max((summary.common_sets([row], fraction) for row in rows), key=len, default=())
    return [sets for sets in dict.fromkeys((common, widest)) if sets]


def _complete(summary: Summary, row: str, sets: Sequence[str], fraction: float) -> list[Group]:
    """The row's groups on these sets; none if one of them is not complete."""
    groups = [summary.group(row, name, fraction) for name in sets]
    return [group for group in groups if group] if all(group and group.is_complete for group in groups) else []


def _value(column: dict[str, Group | None], row: str) -> str:
    group = column[row]
    if group is None:
        return NOT_PLANNED
    values = [*group.test.values()]
    if not group.is_complete:
        failed = any(outcome.error for outcome in group.outcomes)
        state = "failed" if failed else f"{len(values)} of {len(group.outcomes)} seeds"
        return f"*{_percent(mean(values))} ({state})*" if values else f"*{'failed' if failed else 'not run'}*"
    best = max(mean(other.test.values()) for other in column.values() if other and other.is_complete)
    return _percent(mean(values), spread(values), bold=mean(values) == best)


def _mean_value(column: dict[str, tuple[float, float | None]], row: str) -> str:
    if row not in column:
        return NOT_PLANNED
    value, deviation = column[row]
    return _percent(value, deviation, bold=value == max(found for found, _ in column.values()))


def _over_probe(summary: Summary, row: str, sets: Sequence[str], fraction: float) -> str:
    """By how many points the row is above the linear probe on the mean of these sets, and on how many of them."""
    mine, probe = ([mean(group.test.values()) for group in _complete(summary, r, sets, fraction)] for r in (row, PROBE))
    if row == PROBE or not mine or not probe:
        return NOT_PLANNED
    leads = [one - other for one, other in zip(mine, probe, strict=True)]
    return f"{100 * mean(leads):+.2f} (above on {sum(lead > 0 for lead in leads)} of {len(leads)})"


def _costs(results: Sequence[RunResult]) -> list[str]:
    """Trained parameters, those without the head, the ratio of all to the ViT's, input-only or not, minutes."""
    if not results:
        return [NOT_PLANNED] * 5
    ratio = max(result.trained_parameters / result.backbone_parameters for result in results)
    seconds = median(result.seconds for result in results)
    return [
        _range(result.trained_parameters for result in results),
        _range(result.adapted_parameters for result in results),
        f"{100 * ratio:.2g} %" if ratio < 1 else f"{100 * ratio:.0f} %",
        "yes" if results[0].input_only else "no",
        f"{seconds / 60:.1f}" if seconds else NOT_PLANNED,
    ]


def _range(values: Iterable[int]) -> str:
    found = sorted(set(values))
    return f"{found[0]:,}" if len(found) == 1 else f"{found[0]:,} to {found[-1]:,}"


def _sizes(groups: Iterable[Group]) -> str:
    sizes = {(r.split_sizes["train"], r.split_sizes["test"]) for group in groups for r in group.results}
    return ", ".join(f"{train:,} / {test:,}" for train, test in sorted(sizes)) or NOT_PLANNED


def _percent(value: float, deviation: float | None = None, *, bold: bool = False) -> str:
    text = f"{100 * value:.2f}" + (f" ± {100 * deviation:.2f}" if deviation is not None else "")
    return f"**{text}**" if bold else text


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def cells_csv(summary: Summary) -> str:
    """One row a cell, with everything that its result says; empty fields for what is not finished."""
    counted = {id(outcome) for group in summary.groups.values() for outcome in group.outcomes}
    return as_csv([_cell_record(outcome, counts=id(outcome) in counted) for outcome in summary.outcomes])


def _cell_record(outcome: Outcome, *, counts: bool) -> dict[str, Any]:
    cell, result = outcome.cell, outcome.result
    record: dict[str, Any] = {
        "cell": cell.name,
        "row": cell.row,
        "method": cell.method,
        "set": cell.set,
        "fraction": cell.fraction,
        "seed": cell.seed,
        "searched": " ".join(f"{name}={value}" for name, value in cell.searched.items()),
        "state": "finished" if result else "failed" if outcome.error else "waiting",
        "counts": "yes" if counts and result else "no",
        "error": outcome.error or "",
    }
    fields: dict[str, Any] = dict.fromkeys(_RESULT_FIELDS, "")
    if result:
        fields |= {
            "val_top1": top1(result.val),
            "test_top1": top1(result.test),
            "test_top5": result.test["top5"],
            "test_loss": result.test["loss"],
            "probe_C": result.linear_probe["C"],
            "probe_val_top1": top1(result.linear_probe["val"]),
            "probe_test_top1": top1(result.linear_probe["test"]),
            **{f"{split}_images": result.split_sizes[split] for split in ("train", "val", "test")},
            **{name: getattr(result, name) for name in _RESULT_FIELDS if name in RunResult.model_fields},
        }
    return record | fields


_RESULT_FIELDS = (
    *("val_top1", "test_top1", "test_top5", "test_loss", "probe_C", "probe_val_top1", "probe_test_top1"),
    *("dataset", "classes", "train_images", "val_images", "test_images", "reach", "input_only", "served"),
    *("trained_parameters", "adapted_parameters", "backbone_parameters", "epochs", "best_epoch", "seconds"),
)


def groups_csv(summary: Summary) -> str:
    """One row a group: mean and standard deviation over the seeds."""
    return as_csv([_group_record(group) for group in summary.groups.values()])


def _group_record(group: Group) -> dict[str, Any]:
    test, val, results = [*group.test.values()], [*group.val.values()], group.results
    return {
        "row": group.row,
        "set": group.set,
        "fraction": group.fraction,
        "seeds": " ".join(str(outcome.cell.seed) for outcome in group.outcomes) if group.row != PROBE else "",
        "finished": len(results),
        "complete": "yes" if group.is_complete else "no",
        "chosen": " ".join(f"{name}={value}" for name, value in group.chosen.items()),
        "test_mean": mean(test) if test else "",
        "test_std": _or_empty(spread(test)),
        "val_mean": mean(val) if val else "",
        "val_std": _or_empty(spread(val)),
        "trained_parameters": results[0].trained_parameters if results else "",
        "ratio": results[0].trained_parameters / results[0].backbone_parameters if results else "",
        "input_only": results[0].input_only if results else "",
        "seconds": mean(result.seconds for result in results) if results else "",
    }


def _or_empty(value: float | None) -> float | str:
    return "" if value is None else value
