"""Recording and alerting rules: promtool agrees, each alert has cases, a runbook, and words that help."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from k8s.monitoring.prometheus_rule import TARGET, prometheus_rule
from pgn.errors import ERRORS
from pgn.gateway.verdict import Code

ROOT = Path(__file__).resolve().parents[2]
MONITORING = ROOT / "k8s" / "monitoring"
RUNBOOKS = ROOT / "docs" / "runbooks"
CASES = sorted((MONITORING / "tests").glob("*.yaml"))
RULES = [rule for group in yaml.safe_load((MONITORING / "rules.yaml").read_text())["groups"] for rule in group["rules"]]
ALERTS = {rule["alert"]: rule for rule in RULES if "alert" in rule}
PAGES = sorted(RUNBOOKS.glob("pgn-*.md"))


def kebab(name: str) -> str:
    """PgnNotReady -> pgn-not-ready."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", name).lower()


@pytest.fixture(scope="module")
def promtool() -> str:
    """Prometheus' own checker."""
    found = shutil.which("promtool")
    if found is None:
        pytest.skip("promtool is not installed: apt-get install prometheus")
    return found


def test_the_rules_are_sound(promtool: str) -> None:
    """Prometheus refuses to start with rules that it cannot read."""
    run = subprocess.run([promtool, "check", "rules", MONITORING / "rules.yaml"], capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr


@pytest.mark.parametrize("cases", CASES, ids=lambda path: path.stem)
def test_every_alert_comes_and_goes_as_its_cases_say(promtool: str, cases: Path) -> None:
    """An alert that never fires, or never ends, is found here and not at night."""
    run = subprocess.run([promtool, "test", "rules", cases.name], cwd=cases.parent, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr


def _cases(alert: str) -> list[dict[str, Any]]:
    tests = (test for path in CASES for test in yaml.safe_load(path.read_text())["tests"])
    return [case for test in tests for case in test.get("alert_rule_test", []) if case["alertname"] == alert]


@pytest.mark.parametrize("alert", ALERTS)
def test_every_alert_has_a_case_that_fires_and_one_that_does_not(alert: str) -> None:
    """Half of an alert's worth is when it keeps silent."""
    cases = _cases(alert)
    assert any(case["exp_alerts"] for case in cases)
    assert any(not case["exp_alerts"] for case in cases)


def test_no_case_is_about_an_alert_that_is_gone() -> None:
    """promtool finds silence where an alert is misspelt, and passes."""
    tests = (test for path in CASES for test in yaml.safe_load(path.read_text())["tests"])
    assert {case["alertname"] for test in tests for case in test.get("alert_rule_test", [])} == ALERTS.keys()


@pytest.mark.parametrize("alert", ALERTS)
def test_every_alert_says_how_bad_it_is_and_where_to_read_on(alert: str) -> None:
    """Who is woken by it reads these words first."""
    rule = ALERTS[alert]
    assert alert.startswith("Pgn")
    assert rule["labels"] == {"severity": rule["labels"]["severity"]}
    assert rule["labels"]["severity"] in ("page", "ticket")
    assert set(rule["annotations"]) == {"summary", "description", "runbook_url"}
    assert rule["annotations"]["runbook_url"] == f"docs/runbooks/{kebab(alert)}.md"


def test_every_alert_has_a_runbook_and_every_runbook_an_alert() -> None:
    """A link that leads nowhere is worse than none."""
    assert sorted(page.stem for page in PAGES) == sorted(map(kebab, ALERTS))


@pytest.mark.parametrize("alert", ALERTS)
def test_every_runbook_answers_the_five_questions(alert: str) -> None:
    """Always in the same places, for who reads it half asleep."""
    page = (RUNBOOKS / f"{kebab(alert)}.md").read_text()
    assert page.startswith(f"# {alert}\n\n**{ALERTS[alert]['labels']['severity'].capitalize()}.** ")
    assert re.findall(r"(?m)^## (.*)$", page) == ["What users notice", "Look", "Do", "Over when"]


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.stem)
def test_every_code_in_a_runbook_is_one_that_the_service_says(page: Path) -> None:
    """Operators search for the code that they were shown."""
    known = {*ERRORS, *(code.value for code in Code)}
    families = {code.partition(".")[0] for code in known}
    named = re.findall(r"`([a-z]+\.[a-z_]+)`", page.read_text())
    assert [code for code in named if code.partition(".")[0] in families and code not in known] == []


def test_the_list_of_runbooks_is_whole() -> None:
    """Each alert once, with its severity."""
    rows = re.findall(r"(?m)^\| (\w+) \| \[(\w+)\]\(([\w-]+)\.md\) \|", (RUNBOOKS / "README.md").read_text())
    assert sorted(rows) == sorted((rule["labels"]["severity"], name, kebab(name)) for name, rule in ALERTS.items())


def test_the_operators_object_is_made_of_the_rules() -> None:
    """`make monitoring` writes it; both ways of using Prometheus have the same alerts."""
    assert TARGET.read_text() == prometheus_rule()
    assert yaml.safe_load(prometheus_rule())["spec"] == yaml.safe_load((MONITORING / "rules.yaml").read_text())
