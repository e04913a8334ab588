"""The HPA follows in-flight work per replica, up and down.

The cluster must run: API server with its aggregator, controller manager (Deployments, HPA), and no custom metrics of
its own. The API server has to reach this machine as PGN_TEST_HOST (127.0.0.1). Pods are said to be ready.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.kubectl import Kubectl, wait_for
from tests.cluster.manifests import change, for_stand_ins, quick_scaler
from tests.cluster.stand_ins import FedMetrics
from tests.k8s.rendered import CPU, render

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("kubelets"), pytest.mark.timeout(600)]


@pytest.fixture
def fed(cluster: Kubectl, tmp_path: Path) -> Iterator[FedMetrics]:
    """An API of custom metrics whose value the test sets."""
    if any("custom.metrics.k8s.io" in version for version in cluster.run("api-versions").splitlines()):
        pytest.skip("the cluster has an API of custom metrics")
    with FedMetrics(cluster, tmp_path, os.environ.get("PGN_TEST_HOST", "127.0.0.1")) as metrics:
        cluster.apply(*metrics.objects())
        try:
            yield metrics
        finally:
            cluster.run("delete", "apiservice", "v1beta1.custom.metrics.k8s.io", "--ignore-not-found")


def replicas(cluster: Kubectl) -> int:
    """How many are wanted."""
    return int(cluster.get("deployment", "pgn-serve")["spec"]["replicas"])


def test_it_scales_up_and_down_with_the_work_in_flight(cluster: Kubectl, fed: FedMetrics) -> None:
    """Up when replicas are busy, down when they are not, and the HPA says that it reads the metric."""
    objects = for_stand_ins(render(CPU), cluster.namespace)
    cluster.apply(*change(objects, "HorizontalPodAutoscaler", lambda scaler: quick_scaler(scaler, most=3)))
    fed.value = 40  # in each, far over the target

    wait_for(lambda: replicas(cluster) == 3, "three replicas", 240)
    conditions = cluster.get("hpa", "pgn-serve")["status"]["conditions"]
    assert {each["type"]: each["status"] for each in conditions}["ScalingActive"] == "True"

    fed.value = 0
    wait_for(lambda: replicas(cluster) == 1, "one replica again", 240)
