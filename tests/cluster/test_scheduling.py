"""Where pods go when GPUs are few: one a GPU, serving before training, and training goes on later.

The cluster must run: API server, controller manager and scheduler; without a scheduler these tests skip. The nodes are
stand-ins with a GPU each, and take only pods of the test.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from k8s.check.render import Object
from tests.cluster.kubectl import Kubectl, wait_for
from tests.cluster.manifests import change, for_nodes
from tests.cluster.stand_ins import GpuNodes
from tests.k8s.rendered import Combination, render

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]
HA, GPU, GRID = Combination("overlays/ha"), Combination("overlays/gpu"), Combination("training/grid")
SERVING, TRAINING = "app.kubernetes.io/name=pgn-serve", "app.kubernetes.io/name=pgn-train"


@pytest.fixture
def nodes(cluster: Kubectl) -> Iterator[list[str]]:
    """Three nodes of a GPU each, in three zones, and a scheduler that uses them."""
    with GpuNodes(cluster, 3) as there:
        probe = {
            "nodeSelector": {"kubernetes.io/hostname": there.names[0]},
            "tolerations": [{"operator": "Exists"}],
            "containers": [{"name": "x", "image": "x:1"}],
        }
        cluster.apply({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "probe"}, "spec": probe})
        try:
            wait_for(lambda: "nodeName" in cluster.get("pod", "probe")["spec"], "the scheduler", 30)
        except AssertionError:
            pytest.skip("the cluster has no scheduler")
        cluster.run("delete", "pod", "probe")
        yield there.names


def placed(cluster: Kubectl, selector: str) -> list[str]:
    """The nodes of the pods that have one and stay there, one name for each pod."""
    pods = (each for each in cluster.find("pods", selector) if "deletionTimestamp" not in each["metadata"])
    return sorted(each["spec"]["nodeName"] for each in pods if "nodeName" in each["spec"])


def unschedulable(pod: Object) -> bool:
    """Whether the scheduler has said that there is no room."""
    conditions = pod.get("status", {}).get("conditions", ())
    return any(each["type"] == "PodScheduled" and each.get("reason") == "Unschedulable" for each in conditions)


def test_each_replica_has_a_gpu_and_a_node_of_its_own(cluster: Kubectl, nodes: list[str]) -> None:
    """Past the taint, over all zones; and one more than there are GPUs waits, and takes nobody's place."""
    objects = for_nodes(render(HA), cluster.namespace)
    cluster.apply(*objects)
    wait_for(lambda: placed(cluster, SERVING) == nodes, "a replica on each node", 120)

    cluster.apply(*change(objects, "HorizontalPodAutoscaler", lambda scaler: scaler["spec"].update(minReplicas=4)))
    wait_for(lambda: any(map(unschedulable, cluster.find("pods", SERVING))), "the fourth to be told to wait", 120)
    assert placed(cluster, SERVING) == nodes


def test_serving_takes_gpus_from_training_which_goes_on_later(cluster: Kubectl, nodes: list[str]) -> None:
    """What is preempted is no failure of the grid's cells: each is run again when there is room."""
    volume = {
        "capacity": {"storage": "100Gi"},
        "accessModes": ["ReadWriteMany"],
        "hostPath": {"path": "/nonexistent"},
        "claimRef": {"namespace": cluster.namespace, "name": "pgn-grid"},
    }
    metadata = {"name": cluster.namespace}
    cluster.apply({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": metadata, "spec": volume})
    try:
        claimed = change(
            for_nodes(render(GRID), cluster.namespace),
            "PersistentVolumeClaim",
            lambda claim: claim["spec"].update(storageClassName=""),  # the volume above, whatever the cluster's default
        )
        cluster.apply(*claimed)
        wait_for(lambda: placed(cluster, TRAINING) == nodes, "a cell on each node", 120)

        serving = for_nodes(render(GPU), cluster.namespace)
        cluster.apply(*serving)
        wait_for(lambda: len(placed(cluster, SERVING)) == 1, "the replica to have a GPU", 120)
        wait_for(lambda: len(placed(cluster, TRAINING)) == 2, "the cells to have the rest", 120)

        cluster.run("delete", "hpa,deployment", "pgn-serve")
        wait_for(lambda: placed(cluster, TRAINING) == nodes, "the cell to go on", 120)
        status = cluster.get("job", "pgn-grid")["status"]
        assert not status.get("failedIndexes")
        assert not any(each["type"] == "Failed" for each in status.get("conditions", ()))
        cells = cluster.find("pods", TRAINING)
        assert {each["metadata"]["annotations"]["batch.kubernetes.io/job-completion-index"] for each in cells} == {
            "0",
            "1",
            "2",
        }
    finally:
        cluster.run("delete", "persistentvolume", cluster.namespace, "--wait=false")
