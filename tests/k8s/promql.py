"""PromQL, read by a parser and not by eye: which series an expression asks for, and which labels it names."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import promql_parser
import yaml

ROOT: Final = Path(__file__).resolve().parents[2]
MONITORING: Final = ROOT / "k8s" / "monitoring"

# What Grafana puts in place of its variables.
_VARIABLES: Final = {"$__rate_interval": "5m", "$namespace": ".*", "$job": ".*"}
_LABEL_VALUES: Final = re.compile(r"label_values\((?P<selector>.+), (?P<label>\w+)\)")


@dataclass(frozen=True)
class Matcher:
    """One condition on a label."""

    label: str
    operator: str
    value: str

    def holds(self, labels: Mapping[str, str]) -> bool:
        """Whether a series with these labels is wanted; a label that is not there is empty, as for Prometheus."""
        found = labels.get(self.label, "")
        if self.operator in ("=", "!="):
            return (found == self.value) == (self.operator == "=")
        return (re.fullmatch(self.value, found) is not None) == (self.operator == "=~")


@dataclass(frozen=True)
class Selector:
    """A metric's name and its conditions."""

    name: str
    matchers: tuple[Matcher, ...]


@dataclass(frozen=True)
class Expression:
    """What an expression asks for.

    Attributes:
        where: For messages.
        text: As it stands there.
        selectors: All of its series.
        labels: Those of `by`, `on`, `group_left` and the like.
    """

    where: str
    text: str
    selectors: tuple[Selector, ...]
    labels: frozenset[str]


_OPERATORS: Final = (
    (promql_parser.MatchOp.Equal, "="),
    (promql_parser.MatchOp.NotEqual, "!="),
    (promql_parser.MatchOp.Re, "=~"),
    (promql_parser.MatchOp.NotRe, "!~"),
)


def read(where: str, text: str) -> Expression:
    """Parse an expression.

    Raises:
        AssertionError: It is none.
    """
    try:
        tree = promql_parser.parse(plain(text))
    except ValueError as error:
        raise AssertionError(f"{where}: {error}") from error
    selectors: list[Selector] = []
    labels: set[str] = set()

    def visit(node: Any) -> None:
        if isinstance(node, promql_parser.VectorSelector):
            matchers = (Matcher(each.name, _operator(each.op), each.value) for each in node.matchers.matchers)
            selectors.append(Selector(node.name, tuple(matchers)))
        modifier = getattr(node, "modifier", None)
        if isinstance(node, promql_parser.AggregateExpr) and modifier:
            labels.update(modifier.labels)
        if isinstance(node, promql_parser.BinaryExpr) and modifier:
            labels.update(modifier.matching.labels if modifier.matching else ())
            labels.update(modifier.group_labels or ())

    promql_parser.walk(tree, visit)
    return Expression(where, text, tuple(selectors), frozenset(labels))


def _operator(op: Any) -> str:
    return next(sign for known, sign in _OPERATORS if known == op)


def plain(text: str) -> str:
    """With values in place of Grafana's variables."""
    for name, value in _VARIABLES.items():
        text = text.replace(name, value)
    return text


def of_rules() -> Iterator[Expression]:
    """Those of recording and alerting rules."""
    for group in yaml.safe_load((MONITORING / "rules.yaml").read_text())["groups"]:
        for rule in group["rules"]:
            yield read(f"rules.yaml: {rule.get('alert') or rule['record']}", rule["expr"])


def of_dashboard() -> Iterator[Expression]:
    """Those of panels and variables."""
    board = json.loads((MONITORING / "dashboard.json").read_text())
    panels = [inner for panel in board["panels"] for inner in (panel, *panel.get("panels", ()))]
    for panel in panels:
        for target in panel.get("targets", ()):
            yield read(f"dashboard.json: {panel['title']}", target["expr"])
    for variable in board["templating"]["list"]:
        if variable["type"] == "query":
            match = _LABEL_VALUES.fullmatch(variable["query"]["query"])
            assert match, variable["query"]
            yield read(f"dashboard.json: ${variable['name']}", f"group by ({match['label']}) ({match['selector']})")


def of_pages() -> Iterator[Expression]:
    """Those in blocks `promql` of the documents, a line each."""
    for page in sorted((ROOT / "docs").rglob("*.md")):
        for block in re.findall(r"(?ms)^```promql\n(.*?)^```", page.read_text()):
            for line in block.strip().splitlines():
                yield read(str(page.relative_to(ROOT)), line)


def of_adapter() -> Iterator[Expression]:
    """Those of prometheus-adapter's rules, filled in as it fills them."""
    for rule in yaml.safe_load((MONITORING / "prometheus-adapter.yaml").read_text())["rules"]["custom"]:
        yield read("prometheus-adapter.yaml: seriesQuery", rule["seriesQuery"])
        name = rule["seriesQuery"].partition("{")[0]
        filled = (
            rule["metricsQuery"]
            .replace("<<.Series>>", name)
            .replace("<<.LabelMatchers>>", 'namespace="pgn",pod=~"pgn-serve-0|pgn-serve-1"')
            .replace("<<.GroupBy>>", "pod")
        )
        assert "<<" not in filled
        yield read("prometheus-adapter.yaml: metricsQuery", filled)


def of_keda() -> Iterator[Expression]:
    """Those of the ScaledObject's triggers."""
    scaled = yaml.safe_load((ROOT / "k8s/components/keda/scaledobject.yaml").read_text())
    for trigger in scaled["spec"]["triggers"]:
        yield read("scaledobject.yaml", trigger["metadata"]["query"])


def everywhere() -> list[Expression]:
    """All of them."""
    return [expression for source in (of_rules, of_dashboard, of_pages, of_adapter, of_keda) for expression in source()]
