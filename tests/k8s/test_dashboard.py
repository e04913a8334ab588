"""Grafana's dashboard: made in code, checked in, and asking what its rows promise."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.k8s.promql import MONITORING, of_dashboard, plain

BOARD = json.loads((MONITORING / "dashboard.json").read_text())
PANELS = [inner for panel in BOARD["panels"] for inner in (panel, *panel.get("panels", ()))]
DRAWN = [panel for panel in PANELS if panel["type"] != "row"]


def test_the_dashboard_is_what_its_code_draws() -> None:
    """`make monitoring` writes it; a change by hand would be lost with the next one."""
    if importlib.util.find_spec("grafana_foundation_sdk") is None:
        pytest.skip("Grafana's SDK is not installed: it needs Python 3.11")
    from k8s.monitoring.dashboard import dashboard_json

    assert (MONITORING / "dashboard.json").read_text() == dashboard_json()


@pytest.mark.parametrize(
    "row",
    [
        *("Traffic", "Errors", "Latency by stage", "Batches", "Bank and store", "Drift", "TorchServe and its JVM"),
        *("GPU (NVIDIA's DCGM exporter)", "Autoscaling", "Training"),
    ],
)
def test_there_is_a_row_for_every_part_of_the_service(row: str) -> None:
    """Who looks for a part finds it by its name."""
    assert row in [panel["title"] for panel in PANELS if panel["type"] == "row"]


def test_prometheus_understands_every_expression(tmp_path: Path) -> None:
    """As rules of a file that nobody loads: promtool reads all of PromQL."""
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed: apt-get install prometheus")
    rules = [{"record": f"panel:{n}", "expr": plain(each.text)} for n, each in enumerate(of_dashboard())]
    file = tmp_path / "panels.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    run = subprocess.run([promtool, "check", "rules", file], capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    assert len(rules) > 50


def test_every_panel_asks_the_prometheus_that_was_chosen() -> None:
    """A dashboard with its maker's data source in it is empty everywhere else."""
    chosen = {"type": "prometheus", "uid": "${datasource}"}
    assert {json.dumps(panel["datasource"], sort_keys=True) for panel in DRAWN} == {json.dumps(chosen, sort_keys=True)}
    assert all(target["datasource"] == chosen for panel in DRAWN for target in panel["targets"])


def test_panels_have_numbers_of_their_own_and_do_not_overlap() -> None:
    """Grafana links to a panel by its number, and draws one above the other what overlaps."""
    numbers = [panel["id"] for panel in PANELS]
    assert len(set(numbers)) == len(numbers)
    taken: set[tuple[int, int]] = set()
    for panel in BOARD["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert place["x"] + place["w"] <= 24
        assert not cells & taken, panel["title"]
        taken |= cells


def test_every_line_of_a_panel_with_several_has_a_name() -> None:
    """Two lines without names are no answer."""
    assert [
        panel["title"]
        for panel in DRAWN
        if len(panel["targets"]) > 1
        if not all(t["legendFormat"] for t in panel["targets"])
    ] == []
