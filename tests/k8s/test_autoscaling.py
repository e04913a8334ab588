"""What scales the replicas: the HPA with its metric, or KEDA in its place; never both, and by the same numbers."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from promql_parser import parse_duration

from pgn.settings import Settings, read_torchserve_config
from tests.k8s.promql import MONITORING, ROOT
from tests.k8s.rendered import ALL, Combination, Object, find, render

ADAPTER = yaml.safe_load((MONITORING / "prometheus-adapter.yaml").read_text())["rules"]["custom"]
MONITOR = yaml.safe_load((ROOT / "k8s/components/prometheus-operator/servicemonitor.yaml").read_text())
GPU, KEDA = Combination("overlays/gpu"), Combination("overlays/gpu", ("keda",))
SERVING = [each for each in ALL if each.folder.startswith("overlays/")]


def scalers(objects: list[Object]) -> list[str]:
    """Kinds of what scales."""
    return [each["kind"] for each in objects if each["kind"] in ("HorizontalPodAutoscaler", "ScaledObject")]


def target(hpa: Object) -> int:
    """In flight, a replica, that the HPA keeps to."""
    (metric,) = hpa["spec"]["metrics"]
    return int(metric["pods"]["target"]["averageValue"])


@pytest.mark.parametrize("combination", SERVING, ids=str)
def test_the_deployment_has_one_scaler_and_no_number_of_its_own(combination: Combination) -> None:
    """Two scalers undo each other, and a number in the Deployment would be set back with each apply."""
    objects = render(combination)
    assert scalers(objects) == (["ScaledObject"] if "keda" in combination.components else ["HorizontalPodAutoscaler"])
    (deployment,) = (each for each in objects if each["kind"] == "Deployment")
    assert "replicas" not in deployment["spec"]


def test_the_adapter_feeds_the_metric_that_the_hpa_reads() -> None:
    """Under the same name, for the pods of the namespace."""
    (metric,) = find(GPU, "HorizontalPodAutoscaler")["spec"]["metrics"]
    assert metric["type"] == "Pods"
    assert [rule["name"]["as"] for rule in ADAPTER] == [metric["pods"]["metric"]["name"]]
    assert set(ADAPTER[0]["resources"]["overrides"]) == {"namespace", "pod"}


def test_windows_hold_at_least_four_scrapes() -> None:
    """With fewer a late scrape leaves a hole, and without its metric nothing scales."""
    scrapes = [endpoint["interval"] for endpoint in MONITOR["spec"]["endpoints"]]
    scrapes.append(yaml.safe_load((MONITORING / "prometheus.yaml").read_text())["global"]["scrape_interval"])
    queries = [rule["metricsQuery"] for rule in ADAPTER]
    queries += [trigger["metadata"]["query"] for trigger in find(KEDA, "ScaledObject")["spec"]["triggers"]]
    windows = [window for query in queries for window in re.findall(r"\[(\w+)\]", query)]
    assert len(windows) == len(queries)
    assert min(map(parse_duration, windows)) >= 4 * max(map(parse_duration, scrapes))


@pytest.mark.parametrize("folder", ["overlays/gpu", "overlays/ha", "overlays/cpu"])
def test_keda_scales_as_the_hpa_would(folder: str) -> None:
    """An overlay's numbers hold whichever of them scales."""
    hpa = find(Combination(folder), "HorizontalPodAutoscaler")
    scaled: dict[str, Any] = find(Combination(folder, ("keda",)), "ScaledObject")["spec"]
    (trigger,) = scaled["triggers"]
    assert scaled["minReplicaCount"] == scaled["fallback"]["replicas"] == hpa["spec"]["minReplicas"]
    assert scaled["maxReplicaCount"] == hpa["spec"]["maxReplicas"]
    assert scaled["advanced"]["horizontalPodAutoscalerConfig"]["behavior"] == hpa["spec"]["behavior"]
    assert trigger["metadata"]["threshold"] == str(target(hpa))


def test_keda_sums_the_replicas_of_its_own_namespace() -> None:
    """Kustomize does not reach into strings: a query of another namespace would scale by strangers' load."""
    scaled = find(KEDA, "ScaledObject")
    assert f'namespace="{scaled["metadata"]["namespace"]}"' in scaled["spec"]["triggers"][0]["metadata"]["query"]


def test_the_target_leaves_room_for_a_burst_and_is_half_of_two_full_batches() -> None:
    """docs/monitoring.md gives the reasons; both numbers are set elsewhere."""
    workflow = yaml.safe_load((ROOT / "handlers/workflow.yaml").read_text())
    stages = [name for name, model in workflow["models"].items() if isinstance(model, dict)]
    wanted = target(find(GPU, "HorizontalPodAutoscaler"))
    assert wanted == len(stages) * workflow["models"]["batch-size"] // 2
    assert wanted * 4 == Settings().max_in_flight
    assert Settings().max_in_flight < read_torchserve_config(ROOT / "config.properties").job_queue_size


def test_replicas_come_quicker_than_they_go() -> None:
    """One too many costs money for minutes, one too few costs answers."""
    behavior = find(GPU, "HorizontalPodAutoscaler")["spec"]["behavior"]
    up, down = behavior["scaleUp"], behavior["scaleDown"]
    assert up["stabilizationWindowSeconds"] < down["stabilizationWindowSeconds"]


def test_the_line_on_the_dashboard_is_the_target() -> None:
    """Who looks at the graph sees what the autoscaler sees."""
    from k8s.monitoring.panels import ROWS

    (panel,) = (panel for _, panels in ROWS for panel in panels if panel.title == "In flight, a replica")
    assert panel.limit == target(find(GPU, "HorizontalPodAutoscaler"))


def test_the_page_names_the_numbers() -> None:
    """docs/monitoring.md explains what is set, not what once was."""
    page = Path(ROOT / "docs/monitoring.md").read_text()
    assert f"**{target(find(GPU, 'HorizontalPodAutoscaler'))}**" in page
