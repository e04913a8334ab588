"""The parts of the cluster tests that need no cluster: what is sent, what is fed, and that kubectl understands it."""

from __future__ import annotations

import json
import ssl
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import yaml

from k8s.check import schemas
from k8s.check.rules import RULES
from tests.cluster.kubectl import Kubectl, Refused, apply_words, parse_resource
from tests.cluster.manifests import change, for_nodes, for_stand_ins, in_namespace, quick_scaler, without_foreign
from tests.cluster.stand_ins import (
    API,
    FedMetrics,
    gpu_node,
    is_ready,
    metric_list,
    node_status,
    ready_status,
    write_certificate,
)
from tests.k8s.rendered import ALL, CPU, Combination, find, objects_of, render


@pytest.mark.parametrize("combination", ALL, ids=str)
def test_moved_to_another_namespace_nothing_is_left_behind(combination: Combination) -> None:
    """A test that wrote into `pgn` would meet the cluster's own installation."""
    moved = in_namespace(objects_of(combination), "elsewhere")
    assert not any("pgn" in (each["metadata"].get("namespace"), *_namespace_name(each)) for each in moved)
    assert [fault for rule in RULES for fault in rule(moved)] == []


def _namespace_name(each: dict[str, Any]) -> list[str]:
    return [each["metadata"]["name"]] if each["kind"] == "Namespace" else []


def test_the_namespace_comes_first() -> None:
    """What is in it cannot be made before it."""
    assert in_namespace(render(CPU), "elsewhere")[0]["metadata"]["name"] == "elsewhere"


def test_pods_for_stand_ins_fit_no_node() -> None:
    """A real kubelet, or one that is simulated, would contradict what the test says of them."""
    (deployment,) = (each for each in for_stand_ins(render(CPU), "elsewhere") if each["kind"] == "Deployment")
    assert deployment["spec"]["template"]["spec"]["nodeSelector"] == {"pgn-serve-tests": "nowhere"}


def test_pods_for_the_test_s_nodes_go_to_no_other() -> None:
    """Serving and training alike: a real node must not be given a GPU pod that only a test wants."""
    for combination in (CPU, Combination("training/grid")):
        moved = for_nodes(render(combination), "elsewhere")
        (workload,) = (each for each in moved if each["kind"] in ("Deployment", "Job"))
        assert workload["spec"]["template"]["spec"]["nodeSelector"] == {"pgn-serve-tests": "elsewhere"}


def test_a_node_of_a_test_is_a_sound_one_and_tainted() -> None:
    """A pod of somebody else that landed there would never run."""
    node = gpu_node("x", "elsewhere")
    assert schemas.faults([node | node_status()], "1.34") == []
    assert node["metadata"]["labels"]["pgn-serve-tests"] == "elsewhere"
    assert node["spec"]["taints"][0]["effect"] == "NoSchedule"


def test_a_quick_scaler_is_a_sound_one() -> None:
    """The API server would refuse another, in the middle of a test."""
    scaler = find(CPU, "HorizontalPodAutoscaler")
    quick_scaler(scaler, most=3)
    assert schemas.faults([scaler], "1.34") == []


def test_custom_resources_are_left_out_where_the_cluster_has_none() -> None:
    """The others are still sent."""
    objects = objects_of(Combination("overlays/gpu", ("keda",)))
    served = {(each["apiVersion"], each["kind"]) for each in objects if each["kind"] != "ScaledObject"}
    assert {each["kind"] for each in objects} - {each["kind"] for each in without_foreign(objects, served)} == {
        "ScaledObject"
    }


def test_changes_are_made_to_copies() -> None:
    """The rendered objects are shared by all tests of a run."""
    objects = objects_of(CPU)
    change(objects, "Service", lambda service: service.clear())
    assert any(each["kind"] == "Service" for each in objects)


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("pods            po      v1                    true    Pod     create,delete   all", ("v1", "Pod")),
        ("namespaces      ns      v1                    false   Namespace   create", ("v1", "Namespace")),
        ("bindings                v1                    true    Binding     create", ("v1", "Binding")),
        (
            "scaledobjects   so      keda.sh/v1alpha1      true    ScaledObject   get",
            ("keda.sh/v1alpha1", "ScaledObject"),
        ),
    ],
)
def test_the_server_s_kinds_are_read_from_kubectl(line: str, found: tuple[str, str]) -> None:
    """The column of short names may be empty."""
    assert parse_resource(line) == found


def test_what_is_said_of_a_pod_is_a_sound_status() -> None:
    """And it says what was meant."""
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, **ready_status()}
    assert schemas.faults([pod], "1.34") == []
    assert is_ready(pod)
    assert not is_ready(pod | ready_status(ready=False))
    assert not is_ready({"status": {}})


class Pods(Kubectl):
    """A cluster with two pods."""

    def find(self, kind: str, selector: str = "") -> list[dict[str, Any]]:
        return [{"metadata": {"name": name}} for name in ("a", "b")]


def test_fed_metrics_are_answered_over_https(tmp_path: Path) -> None:
    """As the API server's aggregator asks: discovery first, then the values of a namespace's pods."""
    context = ssl.create_default_context(cafile=write_certificate(tmp_path, "localhost"))
    context.check_hostname = False
    with FedMetrics(Pods(tmp_path / "none", "elsewhere"), tmp_path, "127.0.0.1") as metrics:
        metrics.value = 40
        context = ssl._create_unverified_context()  # as insecureSkipTLSVerify says
        address = f"https://127.0.0.1:{metrics.port}"

        def ask(path: str) -> Any:
            with urllib.request.urlopen(address + path, context=context, timeout=30) as response:
                return json.load(response)

        (resource,) = ask(API)["resources"]
        assert resource["name"] == "pods/pgn_in_flight"
        found = ask(f"{API}/namespaces/elsewhere/pods/%2A/pgn_in_flight?labelSelector=x")
        assert [(each["describedObject"]["name"], each["value"]) for each in found["items"]] == [
            ("a", "40"),
            ("b", "40"),
        ]
        service, api_service = metrics.objects()
        assert schemas.faults([service, api_service], "1.34") == []
        assert service["spec"]["ports"][0]["port"] == api_service["spec"]["service"]["port"] == metrics.port


def test_a_list_of_metrics_names_its_namespace() -> None:
    """The HPA's controller matches values and pods by it."""
    (item,) = metric_list("elsewhere", ["a"], 3)["items"]
    assert item["describedObject"] | {"kind": "Pod"} == {
        "kind": "Pod",
        "apiVersion": "/v1",
        "namespace": "elsewhere",
        "name": "a",
    }


@pytest.fixture
def nowhere(tmp_path: Path) -> Kubectl:
    """A cluster that nobody answers for."""
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "x",
        "contexts": [{"name": "x", "context": {"cluster": "x", "user": "x"}}],
        "clusters": [{"name": "x", "cluster": {"server": "http://127.0.0.1:9"}}],
        "users": [{"name": "x", "user": {"token": "x"}}],
    }
    (tmp_path / "kubeconfig").write_text(yaml.safe_dump(config))
    return Kubectl(tmp_path / "kubeconfig", "elsewhere")


CALLS = {
    "get": lambda k: k.get("deployment", "x"),
    "find": lambda k: k.find("pods", "a=b"),
    "patch": lambda k: k.patch("pod", "x", ready_status(), subresource="status"),
    "evict": lambda k: k.evict("x"),
    "served": lambda k: k.served(),
    "apply": lambda k: k.apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x"}}),
    "readyz": lambda k: k.run("get", "--raw=/readyz"),
    "namespace": lambda k: k.run("create", "namespace", "x"),
    "delete": lambda k: k.run("delete", "namespace", "x", "--wait=false"),
    "delete one": lambda k: k.run("delete", "apiservice", "x", "--ignore-not-found"),
    "rollout": lambda k: k.run("rollout", "status", "deployment/x", "--timeout=120s"),
    "undo": lambda k: k.run("rollout", "undo", "deployment/x"),
    "scale": lambda k: k.run("scale", "deployment/x", "--replicas=3"),
    "delete several": lambda k: k.run("delete", "node", "x", "y", "--ignore-not-found"),
    "delete kinds": lambda k: k.run("delete", "hpa,deployment", "x"),
    "delete by force": lambda k: k.run("delete", "pod", "x", "--grace-period=0", "--force", "--wait=false"),
    "versions": lambda k: k.run("api-versions"),
}


@pytest.mark.parametrize("name", CALLS)
def test_kubectl_understands_every_command(name: str, nowhere: Kubectl) -> None:
    """All that is wrong with them here is that nobody answers."""
    with pytest.raises(Refused, match=r"127\.0\.0\.1:9"):
        CALLS[name](nowhere)


def test_kubectl_s_refusal_of_a_command_would_be_seen(nowhere: Kubectl) -> None:
    """Else the test above would prove nothing."""
    with pytest.raises(Refused, match="unknown flag: --dry-rum"):
        nowhere.run("apply", "--dry-rum=server", "--filename=-", given="{}")


def test_a_dry_run_leaves_nothing() -> None:
    """It is told to the server, which does all but write."""
    assert "--dry-run=server" in apply_words(dry_run=True)
    assert not any("dry-run" in word for word in apply_words(dry_run=False))
