"""Which series there are: those of a scrape, those that rules record, and those of foreign exporters."""

from __future__ import annotations

import re
from typing import Final

import yaml

from tests.k8s.promql import MONITORING, Expression, Matcher, Selector
from tests.k8s.scrape import TARGET_LABELS, Series

FOREIGN: Final[dict[str, list[str]]] = {
    name: labels
    for exporter in yaml.safe_load((MONITORING / "foreign.yaml").read_text())
    for name, labels in exporter["metrics"].items()
}
RECORDED: Final = set(re.findall(r"(?m)^ *- record: (\S+)$", (MONITORING / "rules.yaml").read_text()))
_RECORDED_LABELS: Final = ("namespace", "job")

# The one series that this machine cannot have.
_NEEDS_A_GPU: Final = Selector("pgn_stage_info", (Matcher("device", "=~", "cuda.*"),))


def missing(selector: Selector, scraped: Series) -> str | None:
    """Why a selector finds nothing, if it does."""
    named = {matcher.label for matcher in selector.matchers}
    if selector.name in FOREIGN or selector.name in RECORDED:
        unknown = named - set(FOREIGN.get(selector.name, _RECORDED_LABELS))
        return f"{selector.name} has no label {', '.join(sorted(unknown))}" if unknown else None
    if selector.name not in scraped:
        return f"{selector.name} is exported by nobody"
    if selector == _NEEDS_A_GPU or any(_holds(selector, labels) for labels in scraped[selector.name]):
        return None
    wanted = ",".join(f'{each.label}{each.operator}"{each.value}"' for each in selector.matchers)
    return f"no series of {selector.name} has {wanted}"


def _holds(selector: Selector, labels: dict[str, str]) -> bool:
    return all(matcher.label in labels and matcher.holds(labels) for matcher in selector.matchers)


def labels_of(expression: Expression, scraped: Series) -> set[str]:
    """All labels that the series of an expression have."""
    found = set(TARGET_LABELS)
    for selector in expression.selectors:
        if selector.name in RECORDED:
            continue
        found.update(FOREIGN.get(selector.name) or {label for each in scraped[selector.name] for label in each})
    return found
