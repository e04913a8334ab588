"""Our own rules hold for every combination, and each of them sees what it is there to see."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from k8s.check import rules_objects, rules_pods
from k8s.check.objects import pods, quantity, selects
from k8s.check.rules import RULES, Rule, title
from tests.k8s.rendered import ALL, CPU, Combination, Object, find, objects_of, render

GPU = Combination("overlays/gpu")
QUOTA = Combination("overlays/cpu", ("quota",))
OPERATOR = Combination("overlays/cpu", ("prometheus-operator",), beside=("training/job",))


@pytest.mark.parametrize("combination", ALL, ids=str)
def test_every_combination_keeps_every_rule(combination: Combination) -> None:
    """What an operator puts together is as sound as its parts."""
    broken = {title(rule): list(rule(objects_of(combination))) for rule in RULES}
    assert {rule: faults for rule, faults in broken.items() if faults} == {}


def the(objects: list[Object], kind: str, name: str | None = None) -> Any:
    """The object of that kind; of several, the one of that name."""
    return next(each for each in objects if each["kind"] == kind and name in (None, each["metadata"]["name"]))


def spec_of(objects: list[Object]) -> Any:
    """The Deployment's pods."""
    return the(objects, "Deployment")["spec"]["template"]["spec"]


def gateway(objects: list[Object]) -> Any:
    """The main container."""
    return spec_of(objects)["containers"][0]


def torchserve(objects: list[Object]) -> Any:
    """The sidecar."""
    return next(each for each in spec_of(objects)["initContainers"] if each["name"] == "torchserve")


def volume(objects: list[Object], name: str) -> Any:
    """A volume of the pods."""
    return next(each for each in spec_of(objects)["volumes"] if each["name"] == name)


Break = Callable[[list[Object]], Any]

BROKEN: list[tuple[Rule, Break, str]] = [
    (rules_pods.restricted, lambda o: spec_of(o).update(hostNetwork=True), "hostNetwork is set"),
    (rules_pods.restricted, lambda o: volume(o, "shm").update(hostPath={"path": "/"}), "volume shm is a hostPath"),
    (rules_pods.restricted, lambda o: spec_of(o)["securityContext"].update(runAsUser=0), "may run as root"),
    (rules_pods.restricted, lambda o: spec_of(o)["securityContext"].pop("seccompProfile"), "no seccomp profile"),
    (rules_pods.restricted, lambda o: gateway(o)["securityContext"].pop("capabilities"), "does not drop ALL"),
    (
        rules_pods.restricted,
        lambda o: gateway(o)["securityContext"]["capabilities"].update(add=["NET_ADMIN"]),
        "adds capabilities ['NET_ADMIN']",
    ),
    (rules_pods.restricted, lambda o: gateway(o)["securityContext"].update(privileged=True), "it is privileged"),
    (
        rules_pods.restricted,
        lambda o: gateway(o)["securityContext"].pop("allowPrivilegeEscalation"),
        "allowPrivilegeEscalation is not false",
    ),
    (rules_pods.restricted, lambda o: gateway(o)["ports"][0].update(hostPort=8000), "takes port 8000 of the node"),
    (
        rules_pods.restricted,
        lambda o: gateway(o)["livenessProbe"]["httpGet"].update(host="10.0.0.1"),
        "asks another host, 10.0.0.1",
    ),
    (rules_pods.restricted, lambda o: spec_of(o)["securityContext"].update(sysctls=[{"name": "x"}]), "sets sysctls"),
    (
        rules_pods.locked_down,
        lambda o: torchserve(o)["securityContext"].update(readOnlyRootFilesystem=False),
        "torchserve: its root file system can be written",
    ),
    (rules_pods.locked_down, lambda o: spec_of(o).pop("automountServiceAccountToken"), "a token of the Kubernetes API"),
    (rules_pods.locked_down, lambda o: spec_of(o).pop("enableServiceLinks"), "Services set variables"),
    (rules_pods.locked_down, lambda o: spec_of(o).pop("serviceAccountName"), "default ServiceAccount"),
    (rules_pods.locked_down, lambda o: gateway(o)["securityContext"].update(runAsUser=1001), "users ['1000', '1001']"),
    (rules_pods.locked_down, lambda o: spec_of(o)["securityContext"].pop("fsGroup"), "without fsGroup"),
    (rules_pods.resources_named, lambda o: gateway(o)["resources"]["limits"].pop("memory"), "no limit of memory"),
    (rules_pods.resources_named, lambda o: gateway(o)["resources"]["requests"].pop("cpu"), "no request of cpu"),
    (rules_pods.resources_named, lambda o: gateway(o)["resources"]["requests"].update(cpu="9"), "asks for more cpu"),
    (
        rules_pods.volumes_sized,
        lambda o: volume(o, "gateway-tmp").update(emptyDir={}),
        "volume gateway-tmp has no sizeLimit",
    ),
    (
        rules_pods.volumes_sized,
        lambda o: volume(o, "shm")["emptyDir"].update(sizeLimit="3Gi"),
        "more than half of its memory",
    ),
    (rules_pods.volumes_sized, lambda o: volume(o, "store")["emptyDir"].update(sizeLimit="99Gi"), "may take 100.0 GiB"),
    (
        rules_pods.volumes_mounted,
        lambda o: spec_of(o)["volumes"].append({"name": "lost", "emptyDir": {}}),
        "volume lost is mounted nowhere",
    ),
    (rules_pods.volumes_mounted, lambda o: spec_of(o)["volumes"].pop(), "which is not there"),
    (
        rules_pods.volumes_mounted,
        lambda o: gateway(o)["volumeMounts"].append({"name": "shm", "mountPath": "/tmp"}),
        "two mounts at /tmp",
    ),
    (
        rules_pods.volumes_mounted,
        lambda o: gateway(o).update(volumeMounts=[m for m in gateway(o)["volumeMounts"] if m["mountPath"] != "/tmp"]),
        "nothing can be written to /tmp",
    ),
    (
        rules_pods.gpus_apart,
        lambda o: spec_of(o).update(tolerations=[{"key": "nvidia.com/gpu", "operator": "Exists"}]),
        "needs no GPU and tolerates nvidia.com/gpu",
    ),
    (rules_pods.gpus_apart, lambda o: spec_of(o).update(tolerations=[{"operator": "Exists"}]), "tolerates every taint"),
    (rules_pods.probed, lambda o: torchserve(o).pop("livenessProbe"), "torchserve: no liveness probe"),
    (rules_pods.probed, lambda o: gateway(o).pop("startupProbe"), "gateway: no startup probe"),
    (rules_pods.probed, lambda o: gateway(o).pop("readinessProbe"), "no readiness probe"),
    (
        rules_pods.probed,
        lambda o: gateway(o)["livenessProbe"].update(timeoutSeconds=11),
        "the liveness probe may take longer than its period",
    ),
    (
        rules_pods.probed,
        lambda o: gateway(o)["livenessProbe"].pop("timeoutSeconds"),
        "fails when an answer takes a second",
    ),
    (
        rules_pods.starts_in_order,
        lambda o: torchserve(o).update(startupProbe={"httpGet": {"path": "/livez", "port": 8000}}),
        "its startup probe asks port 8000, which opens later",
    ),
    (
        rules_pods.probes_meet_a_port,
        lambda o: gateway(o)["readinessProbe"]["httpGet"].update(port="htpp"),
        "asks port htpp, which is not declared",
    ),
    (
        rules_pods.probes_meet_a_port,
        lambda o: torchserve(o)["livenessProbe"]["httpGet"].update(port="http"),  # of another container
        "asks port http, which is not declared",
    ),
    (rules_pods.images_fixed, lambda o: gateway(o).update(image="pgn-serve"), "is another one tomorrow"),
    (rules_pods.images_fixed, lambda o: gateway(o).update(image="host:5000/pgn-serve:latest"), "another one tomorrow"),
    (rules_pods.images_fixed, lambda o: gateway(o).update(image="pgn-serve:old"), "are of different images"),
    (rules_pods.rollouts_end, lambda o: the(o, "Deployment")["spec"].pop("strategy"), "are left to their defaults"),
    (
        rules_pods.rollouts_end,
        lambda o: the(o, "Deployment")["spec"]["strategy"]["rollingUpdate"].update(maxSurge=0),
        "so no update starts",
    ),
    (rules_pods.rollouts_end, lambda o: the(o, "Deployment")["spec"].update(strategy={"type": "Recreate"}), "away"),
    (rules_pods.rollouts_end, lambda o: the(o, "Deployment")["spec"].update(revisionHistoryLimit=0), "to roll back to"),
    (
        rules_pods.rollouts_end,
        lambda o: the(o, "Deployment")["spec"].pop("progressDeadlineSeconds"),
        "how long a rollout may take",
    ),
    (rules_objects.named_once, lambda o: o.append(the(o, "Service")), "Service/pgn-serve is there 2 times"),
    (rules_objects.named_once, lambda o: the(o, "Service")["metadata"].pop("namespace"), "is in no namespace"),
    (
        rules_objects.named_once,
        lambda o: the(o, "PriorityClass")["metadata"].update(namespace="pgn"),
        "belongs to the cluster",
    ),
    (
        rules_objects.selectors_match,
        lambda o: the(o, "Service")["spec"].update(selector={"app": "x"}),
        "Service/pgn-serve selects no pod",
    ),
    (
        rules_objects.selectors_match,
        lambda o: the(o, "Service")["spec"]["ports"][0].update(targetPort="web"),
        "has no port web",
    ),
    (
        rules_objects.selectors_match,
        lambda o: the(o, "Deployment")["spec"]["template"]["metadata"].update(labels={"app": "x"}),
        "does not select its own pods",
    ),
    (
        rules_objects.selectors_match,
        lambda o: spec_of(o)["topologySpreadConstraints"][0].update(labelSelector={"matchLabels": {"app": "x"}}),
        "are other pods",
    ),
    (
        rules_objects.selectors_match,
        lambda o: the(o, "NetworkPolicy", "pgn-serve-ingress")["spec"].update(
            podSelector={"matchLabels": {"app": "x"}}
        ),
        "NetworkPolicy/pgn-serve-ingress selects no pod",
    ),
    (rules_objects.references_exist, lambda o: o.remove(the(o, "PriorityClass")), "names PriorityClass/pgn-serve"),
    (rules_objects.references_exist, lambda o: o.remove(the(o, "ServiceAccount")), "names ServiceAccount/pgn-serve"),
    (rules_objects.references_exist, lambda o: o.remove(the(o, "ConfigMap")), "which is not there"),
    (
        rules_objects.references_exist,
        lambda o: the(o, "HorizontalPodAutoscaler")["spec"]["scaleTargetRef"].update(name="pgn"),
        "names Deployment/pgn, which is not there",
    ),
    (rules_objects.one_scaler, lambda o: the(o, "Deployment")["spec"].update(replicas=2), "has replicas and a scaler"),
    (rules_objects.one_scaler, lambda o: o.append(the(o, "HorizontalPodAutoscaler")), "has 2 scalers"),
    (
        rules_objects.one_scaler,
        lambda o: o.remove(the(o, "HorizontalPodAutoscaler")),
        "has neither replicas nor a scaler",
    ),
    (
        rules_objects.drains_pass,
        lambda o: the(o, "PodDisruptionBudget")["spec"].update(minAvailable=1),
        "lets no pod go while there is but one",
    ),
    (
        rules_objects.drains_pass,
        lambda o: the(o, "PodDisruptionBudget")["spec"].update(maxUnavailable=0),
        "lets no pod go while there is but one",
    ),
    (
        rules_objects.drains_pass,
        lambda o: the(o, "PodDisruptionBudget")["spec"].pop("unhealthyPodEvictionPolicy"),
        "keeps its node from being drained",
    ),
    (rules_objects.drains_pass, lambda o: o.append(the(o, "PodDisruptionBudget")), "has 2 PodDisruptionBudgets"),
    (
        rules_objects.network_closed,
        lambda o: (o.remove(the(o, "NetworkPolicy", "default-deny")), o.remove(the(o, "NetworkPolicy", "allow-dns"))),
        "no policy closes what is not opened",
    ),
    (
        rules_objects.network_closed,
        lambda o: o.remove(the(o, "NetworkPolicy", "pgn-serve-ingress")),
        "nobody may reach its port http",
    ),
    (rules_objects.network_closed, lambda o: o.remove(the(o, "NetworkPolicy", "allow-dns")), "may not ask for names"),
    (
        rules_objects.network_closed,
        lambda o: the(o, "NetworkPolicy", "pgn-serve-ingress")["spec"]["ingress"][0].pop("from"),
        "lets everybody in",
    ),
    (
        rules_objects.network_closed,
        lambda o: the(o, "NetworkPolicy", "allow-dns")["spec"]["egress"][0].pop("ports"),
        "lets out to everywhere",
    ),
]


@pytest.mark.parametrize(
    ("rule", "spoil", "fault"), BROKEN, ids=[f"{rule.__name__}: {fault}" for rule, _, fault in BROKEN]
)
def test_what_breaks_a_rule_is_found(rule: Rule, spoil: Break, fault: str) -> None:
    """A rule that cannot fail proves nothing; each is shown red on a copy of the real manifests."""
    objects = render(CPU)
    spoil(objects)
    assert any(fault in found for found in rule(objects)), list(rule(objects))


def test_two_containers_with_a_gpu_each_are_found() -> None:
    """Both stages share one GPU; a second one that is asked for is paid for and idles."""
    objects = render(GPU)
    gateway(objects)["resources"]["limits"]["nvidia.com/gpu"] = "1"
    assert any("would each get a GPU" in fault for fault in rules_pods.gpus_apart(objects))


def test_a_gpu_without_its_toleration_is_found() -> None:
    """GPU nodes are tainted, and such a pod waits for ever."""
    objects = render(GPU)
    del spec_of(objects)["tolerations"]
    assert any("does not tolerate" in fault for fault in rules_pods.gpus_apart(objects))


def test_a_gpu_that_is_asked_for_and_limited_differently_is_found() -> None:
    """The API server refuses such a pod, and the Deployment waits without a word."""
    objects = render(GPU)
    torchserve(objects)["resources"]["requests"]["nvidia.com/gpu"] = "2"
    assert any("asked for and limited differently" in fault for fault in rules_pods.resources_named(objects))


def test_a_monitor_of_nothing_is_found() -> None:
    """Prometheus is silent about it: no target, no metric, and no alert that is not about absence."""
    objects = render(OPERATOR)
    monitor = the(objects, "ServiceMonitor", "pgn-serve")["spec"]
    monitor["endpoints"][0]["port"] = "web"
    assert any("no Service has port web" in fault for fault in rules_objects.selectors_match(objects))
    monitor["selector"]["matchLabels"] = {"app": "x"}
    assert any(
        "ServiceMonitor/pgn-serve selects no Service" in fault for fault in rules_objects.selectors_match(objects)
    )


def test_a_monitor_of_no_training_is_found() -> None:
    """Trainings are behind no Service: their pods are selected themselves."""
    objects = render(OPERATOR)
    monitor = the(objects, "PodMonitor", "pgn-train")["spec"]
    monitor["podMetricsEndpoints"][0]["port"] = "web"
    assert any("no pod has port web" in fault for fault in rules_objects.selectors_match(objects))
    monitor["selector"]["matchLabels"] = {"app": "x"}
    assert any("PodMonitor/pgn-train selects no pod" in fault for fault in rules_objects.selectors_match(objects))


def test_a_quota_that_is_too_small_for_the_scaler_is_found() -> None:
    """Else scaling up stops short, at the worst of times, with an event that nobody reads."""
    objects = render(QUOTA)
    the(objects, "ResourceQuota")["spec"]["hard"]["requests.memory"] = "3Gi"
    (fault,) = rules_objects.quota_admits(objects)
    assert "of requests.memory, and it allows 3Gi" in fault


def test_every_rule_has_an_example_that_breaks_it() -> None:
    """So that a rule is not added without one."""
    shown = {rule for rule, _, _ in BROKEN} | {rules_objects.quota_admits}
    assert set(RULES) == shown


@pytest.mark.parametrize(
    ("text", "number"), [("100m", 0.1), ("2", 2), (3, 3), ("1.5", 1.5), ("64Mi", 2**26), ("5G", 5e9), ("1Ti", 2**40)]
)
def test_quantities_are_read_as_kubernetes_reads_them(text: str | int, number: float) -> None:
    """The rules compare sizes in many units."""
    assert quantity(text) == pytest.approx(number)


@pytest.mark.parametrize("text", ["1gb", "one", "", "1 Gi", "-1"])
def test_what_is_no_quantity_is_refused(text: str) -> None:
    """A size that is misread would be a rule that is kept by mistake."""
    with pytest.raises(ValueError, match="is no quantity"):
        quantity(text)


def test_selectors_are_read_as_kubernetes_reads_them() -> None:
    """All parts of a selector have to fit; an empty one fits everything."""
    labels = {"app": "pgn", "tier": "gpu"}
    assert selects({}, labels)
    assert selects({"matchLabels": {"app": "pgn"}}, labels)
    assert not selects({"matchLabels": {"app": "pgn", "zone": "a"}}, labels)
    assert selects({"matchExpressions": [{"key": "tier", "operator": "In", "values": ["gpu", "cpu"]}]}, labels)
    assert not selects({"matchExpressions": [{"key": "tier", "operator": "DoesNotExist"}]}, labels)
    assert selects({"matchExpressions": [{"key": "zone", "operator": "NotIn", "values": ["a"]}]}, labels)


def test_containers_are_known_by_the_order_in_which_they_start() -> None:
    """A sidecar stays, an init container ends: all rules about life depend on telling them apart."""
    (pod,) = pods([find(CPU, "Deployment")])
    assert [(each.name, each.role) for each in pod.containers] == [
        ("store", "init"),
        ("torchserve", "sidecar"),
        ("gateway", "main"),
    ]
