"""`kubectl apply` of the overlay `cpu`, a change, and the way back.

The cluster must run: API server and controller manager (Deployments, ReplicaSets). Pods are said to be ready.
"""

from __future__ import annotations

from typing import Any

import pytest

from k8s.check.render import Object
from tests.cluster.kubectl import Kubectl, wait_for
from tests.cluster.manifests import change, for_stand_ins
from tests.cluster.stand_ins import Kubelets
from tests.k8s.rendered import CPU, render

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("kubelets")]


def roll_out(cluster: Kubectl, *words: str) -> str:
    """A subcommand of `kubectl rollout` about the Deployment."""
    return cluster.run("rollout", *words, "deployment/pgn-serve", limit_s=150)


def settings_of(cluster: Kubectl) -> str:
    """The ConfigMap that new pods read."""
    spec = cluster.get("deployment", "pgn-serve")["spec"]["template"]["spec"]
    return str(spec["containers"][0]["envFrom"][0]["configMapRef"]["name"])


def with_other_settings(objects: list[Object]) -> list[Object]:
    """As kustomize renders them after an edit: another ConfigMap under another name."""
    (old,) = {each["metadata"]["name"] for each in objects if "pgn-serve-settings" in each["metadata"]["name"]}

    def rename(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: rename(each) for key, each in value.items()}
        if isinstance(value, list):
            return [rename(each) for each in value]
        return "pgn-serve-settings-edited" if value == old else value

    renamed = [rename(each) for each in objects]
    return change(
        renamed, "ConfigMap", lambda each: each["data"].update(PGN_TOP_K="3") if "PGN_STORE" in each["data"] else None
    )


def test_it_rolls_out_changes_and_goes_back(cluster: Kubectl) -> None:
    """A bad change is taken back by one command, settings included, and nobody is without an answer meanwhile."""
    objects = for_stand_ins(render(CPU), cluster.namespace)
    cluster.apply(*objects)
    roll_out(cluster, "status", "--timeout=120s")
    first = settings_of(cluster)
    assert cluster.get("deployment", "pgn-serve")["status"]["readyReplicas"] == 1

    cluster.apply(*with_other_settings(objects))
    roll_out(cluster, "status", "--timeout=120s")
    assert settings_of(cluster) == "pgn-serve-settings-edited"

    roll_out(cluster, "undo")
    roll_out(cluster, "status", "--timeout=120s")
    assert settings_of(cluster) == first
    assert cluster.get("configmap", first)["data"]["PGN_STORE"]


def test_the_old_pod_stays_until_the_new_one_is_ready(cluster: Kubectl, kubelets: Kubelets) -> None:
    """A new version that never becomes ready takes nothing away."""
    objects = for_stand_ins(render(CPU), cluster.namespace)
    cluster.apply(*objects)
    roll_out(cluster, "status", "--timeout=120s")
    (old,) = cluster.find("pods", "app.kubernetes.io/name=pgn-serve")

    kubelets.paused.set()
    cluster.apply(*with_other_settings(objects))
    wait_for(lambda: len(cluster.find("pods", "app.kubernetes.io/name=pgn-serve")) == 2, "a pod of the new version")
    status = cluster.get("deployment", "pgn-serve")["status"]
    assert status["availableReplicas"] == 1
    assert "deletionTimestamp" not in cluster.get("pod", old["metadata"]["name"])["metadata"]


def test_an_apply_does_not_set_replicas_back(cluster: Kubectl) -> None:
    """The HPA's number outlives every apply: `replicas` is in no manifest."""
    objects = [
        each for each in for_stand_ins(render(CPU), cluster.namespace) if each["kind"] != "HorizontalPodAutoscaler"
    ]
    cluster.apply(*objects)
    cluster.run("scale", "deployment/pgn-serve", "--replicas=3")
    cluster.apply(*objects)
    assert cluster.get("deployment", "pgn-serve")["spec"]["replicas"] == 3
