"""What a drain may do, pod by pod, by the API that `kubectl drain` uses.

The cluster must run: API server and controller manager (Deployments, disruption). Pods are said to be ready.
"""

from __future__ import annotations

import pytest

from k8s.check.render import Object
from tests.cluster.kubectl import Kubectl, Refused, wait_for
from tests.cluster.manifests import for_stand_ins
from tests.cluster.stand_ins import Kubelets, ready_status
from tests.k8s.rendered import CPU, render

pytestmark = pytest.mark.cluster
OURS = "app.kubernetes.io/name=pgn-serve"


def run(cluster: Kubectl, count: int) -> list[Object]:
    """So many replicas, ready, and a budget that knows of them."""
    objects = for_stand_ins(render(CPU), cluster.namespace)
    cluster.apply(*(each for each in objects if each["kind"] != "HorizontalPodAutoscaler"))
    cluster.run("scale", "deployment/pgn-serve", f"--replicas={count}")
    cluster.run("rollout", "status", "deployment/pgn-serve", "--timeout=120s", limit_s=150)
    wait_for(lambda: healthy(cluster) == count, "the budget to count the pods")
    return cluster.find("pods", OURS)


def healthy(cluster: Kubectl) -> int:
    """Pods that the budget counts."""
    return int(cluster.get("pdb", "pgn-serve").get("status", {}).get("currentHealthy", 0))


def test_a_single_replica_can_be_drained(cluster: Kubectl, kubelets: Kubelets) -> None:
    """A budget that held it would hold its node for ever."""
    (pod,) = run(cluster, 1)
    cluster.evict(pod["metadata"]["name"])


def test_of_several_one_goes_at_a_time(cluster: Kubectl, kubelets: Kubelets) -> None:
    """The second one has to wait until the first has been replaced, and is ready."""
    first, second = (each["metadata"]["name"] for each in run(cluster, 2))
    kubelets.paused.set()  # the replacement takes its time
    cluster.evict(first)
    wait_for(lambda: healthy(cluster) == 1, "the budget to see the loss")
    with pytest.raises(Refused, match="disruption budget"):
        cluster.evict(second)

    kubelets.paused.clear()
    wait_for(lambda: healthy(cluster) == 2, "the replacement to be ready")
    cluster.evict(second)


def test_a_pod_that_is_ill_holds_up_no_drain(cluster: Kubectl, kubelets: Kubelets) -> None:
    """It serves nobody, and with the default policy would keep its node from being emptied."""
    first, second = (each["metadata"]["name"] for each in run(cluster, 2))
    kubelets.paused.set()
    for name in (first, second):
        cluster.patch("pod", name, ready_status(ready=False), subresource="status")
    wait_for(lambda: healthy(cluster) == 0, "the budget to see that both are ill")
    cluster.evict(first)
    cluster.evict(second)
