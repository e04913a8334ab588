"""What the cluster refuses by our objects: too much, images by tag, pods with rights.

The cluster must run: API server with its default admission plug-ins (quota, limits, Pod Security, admission policies),
and controller manager (Deployments, quota).
"""

from __future__ import annotations

from typing import Any

import pytest

from k8s.check.render import Object
from tests.cluster.kubectl import Kubectl, Refused, wait_for
from tests.cluster.manifests import change, in_namespace
from tests.k8s.rendered import CPU, Combination, render

pytestmark = pytest.mark.cluster
QUOTA = Combination("overlays/cpu", ("quota",))
POLICIES = ("ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding")
DIGESTS = Combination("overlays/gpu", ("digests",))


def of(objects: list[Object], *kinds: str) -> list[Object]:
    """Those of the kinds."""
    return [each for each in objects if each["kind"] in kinds]


def test_what_is_over_the_quota_is_not_made_and_the_reason_is_told(cluster: Kubectl) -> None:
    """A runaway scaler stops at the namespace's share of the cluster."""
    objects = in_namespace(render(QUOTA), cluster.namespace)
    objects = change(objects, "ResourceQuota", lambda quota: quota["spec"]["hard"].update(pods="1"))
    objects = change(objects, "Deployment", lambda deployment: deployment["spec"].update(replicas=3))
    cluster.apply(*(each for each in objects if each["kind"] != "HorizontalPodAutoscaler"))

    def refusals() -> list[str]:
        sets = cluster.find("replicasets", "app.kubernetes.io/name=pgn-serve")
        conditions = [each for one in sets for each in one.get("status", {}).get("conditions", ())]
        return [each["message"] for each in conditions if each["type"] == "ReplicaFailure"]

    wait_for(lambda: any("exceeded quota" in message for message in refusals()), "the ReplicaSet to be refused a pod")
    assert len(cluster.find("pods", "app.kubernetes.io/name=pgn-serve")) == 1


def test_a_container_over_the_limits_is_refused(cluster: Kubectl) -> None:
    """One pod must not take what the namespace has."""
    cluster.apply(*of(in_namespace(render(QUOTA), cluster.namespace), "LimitRange"))
    greedy = {"name": "x", "image": "x:1", "resources": {"limits": {"cpu": "1000", "memory": "1Gi"}}}
    with pytest.raises(Refused, match="maximum cpu usage"):
        cluster.apply(pod(cluster, greedy), dry_run=True)


def test_pods_with_rights_are_refused(cluster: Kubectl) -> None:
    """The namespace holds everybody to "restricted", and our own pods pass."""
    objects = in_namespace(render(CPU), cluster.namespace)
    cluster.apply(*of(objects, "Namespace", "PriorityClass", "ServiceAccount"))
    with pytest.raises(Refused, match="violates PodSecurity"):
        cluster.apply(pod(cluster, {"name": "x", "image": "x:1", "securityContext": {"runAsUser": 0}}), dry_run=True)
    (deployment,) = of(objects, "Deployment")
    template = deployment["spec"]["template"]
    ours = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "ours"} | template["metadata"],
        "spec": template["spec"],
    }
    cluster.apply(ours, dry_run=True)


def test_images_by_tag_are_refused_where_the_policy_is_bound(cluster: Kubectl) -> None:
    """A tag can be moved, and then a restart is another program. Other namespaces of the cluster notice nothing."""
    objects = in_namespace(render(DIGESTS), cluster.namespace)
    (deployment,) = of(objects, "Deployment")
    rules = of(objects, *POLICIES)
    before = {each["metadata"]["name"] for kind in POLICIES for each in cluster.find(kind)}
    by_tag = tagged(deployment)
    try:
        cluster.apply(*rules)
        cluster.apply(by_tag, dry_run=True)  # not bound yet: this namespace has no label
        cluster.apply(*of(objects, "Namespace"))
        wait_for(lambda: refuses(cluster, by_tag), "the policy to be in force")
        with pytest.raises(Refused, match="images have to be named by digest"):
            cluster.apply(by_tag, dry_run=True)
        cluster.apply(deployment, dry_run=True)
    finally:
        for each in (rule for rule in rules if rule["metadata"]["name"] not in before):
            cluster.run("delete", each["kind"], each["metadata"]["name"], "--ignore-not-found")


def refuses(cluster: Kubectl, wanted: Object) -> bool:
    """Whether the server would not take it."""
    try:
        cluster.apply(wanted, dry_run=True)
    except Refused:
        return True
    return False


def tagged(deployment: Object) -> Object:
    """The same with one image by tag."""

    def by_tag(each: Object) -> None:
        each["spec"]["template"]["spec"]["containers"][0]["image"] = "pgn-serve:cuda"

    (changed,) = change([deployment], "Deployment", by_tag)
    return changed


def pod(cluster: Kubectl, container: dict[str, Any]) -> Object:
    """A pod of one container."""
    metadata = {"name": "probe", "namespace": cluster.namespace}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {"containers": [container]}}
