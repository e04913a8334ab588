"""The rendered manifests, changed so that tests can run side by side in one cluster."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from copy import deepcopy

from k8s.check.render import Object

SHARED = ("PriorityClass", "ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding")
"""Objects of the cluster that tests leave where they are: all of them would make the same."""


NODE_LABEL = "pgn-serve-tests"
"""Nodes that a test makes carry it, with the test's namespace."""


def in_namespace(objects: Iterable[Object], namespace: str) -> list[Object]:
    """The same objects in another namespace, the Namespace itself first."""
    moved = []
    for each in deepcopy(list(objects)):
        if each["kind"] == "Namespace":
            each["metadata"]["name"] = namespace
        elif each["kind"] in SHARED:
            each["metadata"].pop("namespace", None)
        else:
            each["metadata"]["namespace"] = namespace
        moved.append(each)
    return sorted(moved, key=lambda each: each["kind"] != "Namespace")


def for_stand_ins(objects: Iterable[Object], namespace: str) -> list[Object]:
    """In another namespace, with pods that no node is good enough for: nobody but the test says how they are."""

    def nowhere(workload: Object) -> None:
        workload["spec"]["template"]["spec"]["nodeSelector"] = {NODE_LABEL: "nowhere"}

    return change(in_namespace(objects, namespace), "Deployment", nowhere)


def for_nodes(objects: Iterable[Object], namespace: str) -> list[Object]:
    """In another namespace, with pods that go to the test's own nodes only, if they go there at all."""

    def here(workload: Object) -> None:
        workload["spec"]["template"]["spec"]["nodeSelector"] = {NODE_LABEL: namespace}

    return change(change(in_namespace(objects, namespace), "Deployment", here), "Job", here)


def without_foreign(objects: Iterable[Object], served: Collection[tuple[str, str]]) -> list[Object]:
    """Those that the cluster knows; custom resources need their operators' definitions."""
    return [each for each in objects if (each["apiVersion"], each["kind"]) in served]


def change(objects: Iterable[Object], kind: str, how: Callable[[Object], object]) -> list[Object]:
    """The same objects, those of a kind changed by `how`."""
    changed = deepcopy(list(objects))
    for each in changed:
        if each["kind"] == kind:
            how(each)
    return changed


def quick_scaler(scaler: Object, *, most: int) -> None:
    """An HPA that follows its metric at once: what is tested is the metric's way, not patience."""
    at_once = {"stabilizationWindowSeconds": 0, "policies": [{"type": "Pods", "value": 10, "periodSeconds": 15}]}
    scaler["spec"] |= {"minReplicas": 1, "maxReplicas": most, "behavior": {"scaleUp": at_once, "scaleDown": at_once}}
