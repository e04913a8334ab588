"""What we want of objects among each other: names, selectors, scaling, disruption, network. One function a rule."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, Final

from k8s.check.objects import label, of_kind, pods, quantity, selects
from k8s.check.render import Object

_CLUSTER_WIDE: Final = (
    "Namespace",
    "PriorityClass",
    "ValidatingAdmissionPolicy",
    "ValidatingAdmissionPolicyBinding",
    "ClusterRole",
    "ClusterRoleBinding",
)
# Kinds of the cluster that kustomize takes for those of a namespace; the API server drops the namespace again.
_MISTAKEN: Final = ("ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding")
_SYSTEM_CLASSES: Final = ("system-cluster-critical", "system-node-critical")
# Made by whoever installs, as they hold what belongs in no repository.
_FROM_OUTSIDE: Final = ("Secret",)


def named_once(objects: Sequence[Object]) -> Iterator[str]:
    """No object is there twice, each is in our namespace unless it is the cluster's."""
    seen = Counter((each["apiVersion"], label(each)) for each in objects)
    yield from (f"{name} is there {count} times" for (_, name), count in seen.items() if count > 1)
    for each in objects:
        namespace = each["metadata"].get("namespace")
        if each["kind"] in _CLUSTER_WIDE:
            if namespace and each["kind"] not in _MISTAKEN:
                yield f"{label(each)} belongs to the cluster and is in namespace {namespace}"
        elif namespace is None:
            yield f"{label(each)} is in no namespace: it would land in whichever is the user's"


def selectors_match(objects: Sequence[Object]) -> Iterator[str]:
    """Whatever selects pods or Services selects some, and a workload its own."""
    made = list(pods(objects))
    for pod in made:
        selector = pod.owner["spec"].get("selector")
        if selector is not None and not selects(selector, pod.labels):
            yield f"{pod.name} does not select its own pods"
        for each in pod.spec.get("topologySpreadConstraints", ()):
            if not selects(each.get("labelSelector", {}), pod.labels):
                yield f"{pod.name}: what it spreads over {each['topologyKey']} are other pods"
    for each in of_kind(objects, "Service"):
        chosen = [pod for pod in made if pod.serves and selects({"matchLabels": each["spec"]["selector"]}, pod.labels)]
        if not chosen:
            yield f"{label(each)} selects no pod"
        for port in each["spec"]["ports"]:
            target = port.get("targetPort", port["port"])
            for pod in chosen:
                if target not in (pod.ports() if isinstance(target, str) else pod.ports().values()):
                    yield f"{label(each)}: {pod.name} has no port {target}"
    for each in of_kind(objects, "PodDisruptionBudget", "NetworkPolicy"):
        selector = each["spec"].get("selector" if each["kind"] == "PodDisruptionBudget" else "podSelector", {})
        if not any(selects(selector, pod.labels) for pod in made):
            yield f"{label(each)} selects no pod"
    for each in of_kind(objects, "ServiceMonitor"):
        services = [
            service
            for service in of_kind(objects, "Service")
            if selects(each["spec"]["selector"], service["metadata"].get("labels", {}))
        ]
        names = {port.get("name") for service in services for port in service["spec"]["ports"]}
        if not services:
            yield f"{label(each)} selects no Service"
        for endpoint in each["spec"]["endpoints"]:
            if endpoint["port"] not in names:
                yield f"{label(each)}: no Service has port {endpoint['port']}"
    for each in of_kind(objects, "PodMonitor"):
        chosen_pods = [pod for pod in made if selects(each["spec"]["selector"], pod.labels)]
        ports = {name for pod in chosen_pods for name in pod.ports()}
        if not chosen_pods:
            yield f"{label(each)} selects no pod"
        for endpoint in each["spec"]["podMetricsEndpoints"]:
            if endpoint["port"] not in ports:
                yield f"{label(each)}: no pod has port {endpoint['port']}"


def references_exist(objects: Sequence[Object]) -> Iterator[str]:
    """Whatever is named is there: ConfigMaps, ServiceAccounts, PriorityClasses, Services, targets of scalers."""
    there = {(each["kind"], each["metadata"]["name"]) for each in objects}

    def lost(where: str, kind: str, name: str, optional: bool = False) -> Iterator[str]:
        if (kind, name) not in there and not optional and kind not in _FROM_OUTSIDE:
            yield f"{where} names {kind}/{name}, which is not there"

    for pod in pods(objects):
        if name := pod.spec.get("serviceAccountName"):
            yield from lost(pod.name, "ServiceAccount", name)
        if (name := pod.spec.get("priorityClassName")) and name not in _SYSTEM_CLASSES:
            yield from lost(pod.name, "PriorityClass", name)
        for volume in pod.volumes.values():
            for source in (volume, *volume.get("projected", {}).get("sources", ())):
                if "configMap" in source:
                    yield from lost(
                        pod.name, "ConfigMap", source["configMap"]["name"], source["configMap"].get("optional", False)
                    )
            if "persistentVolumeClaim" in volume:
                yield from lost(pod.name, "PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"])
        for container in pod.containers:
            for each in container.spec.get("envFrom", ()):
                if "configMapRef" in each:
                    yield from lost(
                        pod.name, "ConfigMap", each["configMapRef"]["name"], each["configMapRef"].get("optional", False)
                    )
            for each in container.spec.get("env", ()):
                if ref := each.get("valueFrom", {}).get("configMapKeyRef"):
                    yield from lost(pod.name, "ConfigMap", ref["name"], ref.get("optional", False))
    for each in of_kind(objects, "HorizontalPodAutoscaler", "ScaledObject"):
        target = each["spec"]["scaleTargetRef"]
        yield from lost(label(each), target.get("kind", "Deployment"), target["name"])
    for each in of_kind(objects, "HTTPRoute"):
        for rule in each["spec"]["rules"]:
            for ref in rule.get("backendRefs", ()):
                yield from lost(label(each), "Service", ref["name"])
    for each in of_kind(objects, "Ingress"):
        for ingress_rule in each["spec"].get("rules", ()):
            for path in ingress_rule["http"]["paths"]:
                yield from lost(label(each), "Service", path["backend"]["service"]["name"])
    for each in of_kind(objects, "ValidatingAdmissionPolicyBinding"):
        yield from lost(label(each), "ValidatingAdmissionPolicy", each["spec"]["policyName"])


def one_scaler(objects: Sequence[Object]) -> Iterator[str]:
    """A workload has one scaler, and then no `replicas` of its own, which each apply would set back."""
    targets = Counter(
        (each["spec"]["scaleTargetRef"].get("kind", "Deployment"), each["spec"]["scaleTargetRef"]["name"])
        for each in of_kind(objects, "HorizontalPodAutoscaler", "ScaledObject")
    )
    yield from (f"{kind}/{name} has {count} scalers" for (kind, name), count in targets.items() if count > 1)
    for each in of_kind(objects, "Deployment", "StatefulSet"):
        is_scaled = (each["kind"], each["metadata"]["name"]) in targets
        if is_scaled and "replicas" in each["spec"]:
            yield f"{label(each)} has replicas and a scaler"
        if not is_scaled and "replicas" not in each["spec"]:
            yield f"{label(each)} has neither replicas nor a scaler"


def drains_pass(objects: Sequence[Object]) -> Iterator[str]:
    """Each Deployment has one PodDisruptionBudget, which lets one pod go even where there is one, or an ill one."""
    budgets = of_kind(objects, "PodDisruptionBudget")
    for pod in pods(of_kind(objects, "Deployment", "StatefulSet")):
        mine = [each for each in budgets if selects(each["spec"]["selector"], pod.labels)]
        if len(mine) != 1:
            yield f"{pod.name} has {len(mine)} PodDisruptionBudgets; with two, no pod can be evicted"
    for pod in pods(of_kind(objects, "Job")):
        for each in budgets:
            if selects(each["spec"]["selector"], pod.labels):
                yield f"{label(each)} also holds pods of {pod.name}"
    for each in budgets:
        if "minAvailable" in each["spec"] or each["spec"].get("maxUnavailable") in (0, "0", "0%", None):
            yield f"{label(each)} lets no pod go while there is but one"
        if each["spec"].get("unhealthyPodEvictionPolicy") != "AlwaysAllow":
            yield f"{label(each)}: a pod that is not ready keeps its node from being drained"


def network_closed(objects: Sequence[Object]) -> Iterator[str]:
    """Nothing goes in or out unless a policy says so; what serves is reached at its ports, and all ask for names."""
    policies = of_kind(objects, "NetworkPolicy")
    for pod in pods(objects):
        mine = [each["spec"] for each in policies if selects(each["spec"].get("podSelector", {}), pod.labels)]
        if {kind for spec in mine for kind in spec.get("policyTypes", ())} != {"Ingress", "Egress"}:
            yield f"{pod.name}: no policy closes what is not opened, inward and outward"
        inward = {port for spec in mine for port in _ports(spec.get("ingress", ()))}
        outward = {port for spec in mine for port in _ports(spec.get("egress", ()))}
        if not {("UDP", 53), ("TCP", 53)} <= outward:
            yield f"{pod.name}: it may not ask for names"
        if not pod.serves:
            continue
        for name, port in pod.ports().items():
            if not {("TCP", port), ("TCP", name)} & inward:
                yield f"{pod.name}: nobody may reach its port {name}"
    for each in policies:
        for rule in each["spec"].get("ingress", ()):
            if not rule.get("from"):
                yield f"{label(each)} lets everybody in"
            if not rule.get("ports"):
                yield f"{label(each)} opens every port"
        for rule in each["spec"].get("egress", ()):
            if not rule.get("to") or not rule.get("ports"):
                yield f"{label(each)} lets out to everywhere, or to every port"


def _ports(rules: Sequence[dict[str, Any]]) -> Iterator[tuple[str, int | str]]:
    for rule in rules:
        for port in rule.get("ports", ()):
            yield port.get("protocol", "TCP"), port["port"]


def quota_admits(objects: Sequence[Object]) -> Iterator[str]:
    """A ResourceQuota has room for the largest number of pods that the scaler may want, and one more for a rollout."""
    for quota in of_kind(objects, "ResourceQuota"):
        hard = quota["spec"]["hard"]
        for pod in pods(of_kind(objects, "Deployment")):
            scalers = of_kind(objects, "HorizontalPodAutoscaler", "ScaledObject")
            most = max(
                (each["spec"].get("maxReplicas", each["spec"].get("maxReplicaCount", 1)) for each in scalers),
                default=pod.owner["spec"].get("replicas", 1),
            )
            surge = pod.owner["spec"]["strategy"].get("rollingUpdate", {}).get("maxSurge", 1)
            count = most + int(surge)
            for name, limit in hard.items():
                part, _, resource = name.partition(".")
                if part not in ("requests", "limits"):
                    continue
                needed = count * sum(each.resource(part, resource) for each in pod.containers if each.role != "init")
                if needed > quantity(limit):
                    yield f"{label(quota)}: {count} pods of {pod.name} need {needed:g} of {name}, and it allows {limit}"
