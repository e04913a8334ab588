"""Objects against the API's own schemas, and custom resources against ours: a misspelt key is always found."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from k8s.check import crds, schemas
from tests.k8s.rendered import ALL, CPU, Combination, Object, every, find, objects_of


@pytest.mark.parametrize("minor", schemas.MINORS)
@pytest.mark.parametrize("combination", ALL, ids=str)
def test_every_object_fits_its_schema_strictly(combination: Combination, minor: str) -> None:
    """The API server ignores what it does not know, and a limit that is misspelt is no limit."""
    assert schemas.faults(objects_of(combination), minor) == []


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"revisionHistoryLimits": 5}, "revisionHistoryLimits"),
        ({"revisionHistoryLimit": "five"}, "is not of type 'integer'"),
    ],
)
def test_a_wrong_field_of_a_built_in_kind_is_found(change: dict[str, Any], fault: str) -> None:
    """The schemas have to be the strict ones: others let every misspelt key pass."""
    deployment = find(CPU, "Deployment")
    deployment["spec"] |= change
    (line,) = schemas.faults([deployment], "1.34")
    assert line.startswith("Deployment/pgn-serve: spec")
    assert fault in line


@pytest.mark.parametrize(
    ("api", "kind"),
    [
        ("apps/v1", "Deploymnet"),
        ("autoscaling/v2beta2", "HorizontalPodAutoscaler"),
        ("example.com/v1", "ServiceMonitor"),
    ],
)
def test_a_kind_that_nobody_knows_is_an_error(api: str, kind: str) -> None:
    """Misspelt, removed or foreign: the schemas' own tool would only warn, and end well."""
    (line,) = schemas.faults([{"apiVersion": api, "kind": kind, "metadata": {"name": "x"}}], "1.34")
    assert f"has no {api} {kind}" in line


MONITOR = """
apiVersion: monitoring.coreos.com/v1
kind: ServiceMonitor
metadata: {name: x}
spec:
  selector: {matchLabels: {app: x}}
  endpoints:
    - port: http
      interval: 15s
"""
POD_MONITOR = """
apiVersion: monitoring.coreos.com/v1
kind: PodMonitor
metadata: {name: x}
spec:
  selector: {matchLabels: {app: x}}
  podMetricsEndpoints:
    - port: http
      interval: 15s
"""
RULE = """
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata: {name: x}
spec:
  groups:
    - name: x
      rules:
        - alert: X
          expr: up == 0
          for: 5m
"""
SCALED = """
apiVersion: keda.sh/v1alpha1
kind: ScaledObject
metadata: {name: x}
spec:
  scaleTargetRef: {name: x}
  triggers:
    - type: prometheus
      metadata: {serverAddress: "http://prometheus:9090", query: up, threshold: "16"}
"""
ROUTE = """
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: x}
spec:
  parentRefs: [{name: gateway}]
  rules:
    - backendRefs: [{name: x, port: 8000}]
"""


@pytest.mark.parametrize("text", [MONITOR, POD_MONITOR, RULE, SCALED, ROUTE])
def test_a_sound_custom_resource_passes(text: str) -> None:
    """Else the next test would prove nothing."""
    assert schemas.faults([yaml.safe_load(text)], "1.34") == []


@pytest.mark.parametrize(
    ("text", "right", "wrong", "place"),
    [
        (MONITOR, "interval", "intervall", "spec.endpoints.0.intervall"),
        (MONITOR, "15s", "15 seconds", "spec.endpoints.0.interval"),
        (MONITOR, "port: http", "port: 8000", "spec.endpoints.0.port"),
        (MONITOR, "endpoints:", "podMetricsEndpoints:", "spec.podMetricsEndpoints"),
        (POD_MONITOR, "podMetricsEndpoints:", "endpoints:", "spec.endpoints"),
        (MONITOR, "matchLabels: {app: x}", "matchLabels: {}", "spec.selector.matchLabels"),
        (RULE, "for: 5m", "keepFiringFor: 5m", "spec.groups.0.rules.0.keepFiringFor"),
        (RULE, "alert: X", "record: x", "spec.groups.0.rules.0"),
        (SCALED, "serverAddress", "serverAdress", "spec.triggers.0.metadata.serverAdress"),
        (SCALED, 'threshold: "16"', "threshold: 16", "spec.triggers.0.metadata.threshold"),
        (SCALED, "scaleTargetRef", "scaleTarget", "spec.scaleTarget"),
        (ROUTE, "parentRefs", "parentRef", "spec.parentRef"),
        (ROUTE, "port: 8000", "port: http", "spec.rules.0.backendRefs.0.port"),
        (ROUTE, "spec:", "spce:", "spce"),
    ],
)
def test_a_wrong_field_of_a_custom_resource_is_found(text: str, right: str, wrong: str, place: str) -> None:
    """The API server drops such a key without a word, and nothing is scraped, scaled or routed."""
    found = schemas.faults([yaml.safe_load(text.replace(right, wrong))], "1.34")
    assert any(line.split(": ")[1] == place for line in found), found


def test_every_kind_that_is_listed_is_one_that_we_ship() -> None:
    """The list of custom resources is no place for what might be of use one day."""
    assert [kind for _, kind in crds.KNOWN if not every(kind)] == []


def test_our_own_objects_are_found_by_kind() -> None:
    """What the other tests look at is there at all."""
    found: list[tuple[Combination, Object]] = every("Deployment")
    assert {combination.folder for combination, _ in found} >= {"overlays/cpu", "overlays/gpu", "overlays/ha"}
