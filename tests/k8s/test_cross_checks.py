"""What the code says to the manifests: each check holds for every combination, and sees what it is there to see."""

from __future__ import annotations

from typing import Any

import pytest

from k8s.check import cross
from k8s.check.cross import CHECKS, Check, command_fault, gateway_paths, torchserve_keys, variables
from k8s.check.objects import expand, pods
from k8s.check.rules import title
from pgn.settings import Settings
from tests.k8s.rendered import ALL, CPU, Combination, Object, objects_of, render
from tests.k8s.test_policies import Break, gateway, spec_of, the, torchserve

PORT = Combination("overlays/gpu", ("torchserve-port",))


@pytest.mark.parametrize("combination", ALL, ids=str)
def test_every_combination_fits_the_code(combination: Combination) -> None:
    """A manifest is a program's arguments: what the program would refuse is found before it is applied."""
    found = {title(check): list(check(objects_of(combination))) for check in CHECKS}
    assert {check: faults for check, faults in found.items() if faults} == {}


def config_map(objects: list[Object], part: str) -> Any:
    """The data of the ConfigMap with that in its name."""
    return next(each["data"] for each in objects if each["kind"] == "ConfigMap" and part in each["metadata"]["name"])


def settings(objects: list[Object]) -> Any:
    return config_map(objects, "settings")


def properties(objects: list[Object], right: str, wrong: str) -> None:
    """Change config.properties."""
    data = config_map(objects, "pgn-serve-torchserve")
    assert right in data["config.properties"]
    data["config.properties"] = data["config.properties"].replace(right, wrong)


BROKEN: list[tuple[Check, Break, str]] = [
    (cross.settings_known, lambda o: settings(o).update(PGN_DEADLINE="10"), "there is no setting PGN_DEADLINE"),
    (cross.settings_known, lambda o: settings(o).update(PGN_DEADLINE_S="ten"), "PGN_DEADLINE_S='ten'"),
    (cross.settings_known, lambda o: settings(o).update(PGN_REMOTE="bucket"), "PGN_REMOTE='bucket'"),
    (
        cross.settings_agree,
        lambda o: gateway(o).setdefault("env", []).append({"name": "PGN_STORE", "value": "/tmp/x"}),
        "store differs: torchserve /var/lib/pgn/store, gateway /tmp/x",
    ),
    (cross.settings_agree, lambda o: settings(o).pop("PGN_METRICS_DIR"), "none of the stages' metrics"),
    (
        cross.paths_mounted,
        lambda o: settings(o).update(PGN_STORE="/srv/store"),
        "gateway: PGN_STORE=/srv/store lies in no mount",
    ),
    (cross.torchserve_keys_known, lambda o: properties(o, "job_queue_size", "job_queue_sise"), "no key job_queue_sise"),
    (
        cross.torchserve_keys_known,
        lambda o: properties(o, "number_of_gpu=1", "number_of_gpu=1\nnumber_of_gpu=2"),
        "number_of_gpu is there twice",
    ),
    (cross.torchserve_keys_known, lambda o: properties(o, "management_address=http", "#"), "has no line management"),
    (
        cross.torchserve_closed,
        lambda o: properties(o, "management_address=http://127.0.0.1", "management_address=http://0.0.0.0"),
        "is not loopback",
    ),
    (
        cross.torchserve_closed,
        lambda o: the(o, "Service")["spec"]["ports"].append({"name": "management", "port": 8081}),
        "publishes TorchServe's management port 8081",
    ),
    (
        cross.probes_reachable,
        lambda o: torchserve(o)["livenessProbe"].update(httpGet={"path": "/ping", "port": 8080}),
        "where no kubelet comes",
    ),
    (
        cross.probes_reachable,
        lambda o: torchserve(o).update(startupProbe={"tcpSocket": {"port": 8081}}),
        "where no kubelet comes",
    ),
    (cross.memory_fits, lambda o: properties(o, "-Xmx1g", "-Xmx3g"), "over half of its memory"),
    (cross.memory_fits, lambda o: properties(o, "-Xmx1g ", ""), "TorchServe's heap is not set"),
    (cross.memory_fits, lambda o: settings(o).update(PGN_MAX_SERVER_BYTES="99999999999"), "is not below"),
    (cross.commands_known, lambda o: torchserve(o).update(args=["pgn", "torchsrve"]), "no subcommand torchsrve"),
    (
        cross.commands_known,
        lambda o: torchserve(o).update(args=["pgn", "torchserve", "--gpu"]),
        "No such option: --gpu",
    ),
    (cross.commands_known, lambda o: gateway(o).update(args=["python3", "-m", "pgn.door"]), "no module pgn.door"),
    (cross.commands_known, lambda o: gateway(o).pop("args"), "no command"),
    (
        cross.grace_suffices,
        lambda o: spec_of(o).update(terminationGracePeriodSeconds=30),
        "terminationGracePeriodSeconds 30; it needs 40",
    ),
    (
        cross.grace_suffices,
        lambda o: gateway(o)["readinessProbe"].update(periodSeconds=10),
        "seen as not ready after 20 s, and drains for 10",
    ),
    (cross.gateway_port, lambda o: settings(o).update(PGN_PORT="8001"), "listens on 8001 and declares [8000]"),
    (cross.gateway_port, lambda o: settings(o).update(PGN_HOST="127.0.0.1"), "where nobody reaches it"),
    (cross.gateway_port, lambda o: settings(o).pop("PGN_ANONYMOUS"), "does not start"),
    (
        cross.paths_exist,
        lambda o: gateway(o)["readinessProbe"]["httpGet"].update(path="/ready"),
        "the readiness probe asks /ready, which the gateway does not have",
    ),
]


@pytest.mark.parametrize(("check", "spoil", "fault"), BROKEN, ids=[f"{c.__name__}: {fault}" for c, _, fault in BROKEN])
def test_what_does_not_fit_the_code_is_found(check: Check, spoil: Break, fault: str) -> None:
    """Each check is shown red on a copy of the real manifests."""
    objects = render(CPU)
    spoil(objects)
    assert any(fault in found for found in check(objects)), list(check(objects))


def test_every_check_has_an_example_that_breaks_it() -> None:
    """So that a check is not added without one."""
    assert set(CHECKS) == {check for check, _, _ in BROKEN}


def test_the_port_of_torchserve_may_be_opened_and_management_may_not() -> None:
    """components/torchserve-port opens one of three addresses; the other two give whoever reaches them everything."""
    objects = render(PORT)
    assert list(cross.torchserve_closed(objects)) == []
    properties(objects, "metrics_address=http://127.0.0.1", "metrics_address=http://0.0.0.0")
    assert any("the metrics address" in fault for fault in cross.torchserve_closed(objects))


@pytest.mark.parametrize(
    "words",
    [
        ["pgn", "torchserve"],
        ["pgn", "sync", "--watch"],
        ["tini", "--", "pgn", "sync"],
        ["python3", "-m", "pgn.gateway"],
        ["python3", "-Ic", "import socket"],
        ["torchrun", "--standalone", "--nproc-per-node=gpu", "-m", "pgn", "train", "--dataset", "digits"],
        ["sh", "-ec", "test -e x || exec pgn sync\n"],
    ],
)
def test_a_command_that_would_be_understood_passes(words: list[str]) -> None:
    """It is parsed by the command line's own parser, and nothing is run."""
    assert command_fault(words) is None


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        (["pgn"], "needs a subcommand"),
        (["pgn", "backbone", "publsh"], "has no subcommand publsh"),
        (["pgn", "backbone", "publish"], "Missing argument"),
        (["pgn", "train", "--epochs", "many"], "Invalid value"),
        (["torchrun", "-m", "pgn", "train", "--datset", "digits"], "No such option: --datset"),
        (["sh", "-ec", "pgn sync &&\n  exec pgn servv"], "has no subcommand servv"),
        (["python3", "-m", "pgn", "sink"], "has no subcommand sink"),
        (["no-such-program"], "there is no program no-such-program"),
    ],
)
def test_a_command_that_would_be_refused_is_found(words: list[str], fault: str) -> None:
    """Wherever it hides: behind an init, in a script, behind torchrun."""
    assert fault in (command_fault(words) or "")


def test_variables_are_replaced_as_kubernetes_does() -> None:
    """`$(NAME)` if it is known, and `$$` for a dollar."""
    assert expand("$(A)/$(B) $$(A) $A", {"A": "x"}) == "x/$(B) $(A) $A"


def test_a_container_s_variables_come_from_all_of_their_sources() -> None:
    """What is checked is what the program will read: ConfigMaps first, then the container's own."""
    objects = render(CPU)
    gateway(objects)["env"] = [
        {"name": "PGN_DEADLINE_S", "value": "7"},
        {"name": "BOTH", "value": "$(PGN_HOST):$(PGN_DEADLINE_S)"},
        {"name": "CORES", "valueFrom": {"resourceFieldRef": {"containerName": "gateway", "resource": "limits.cpu"}}},
    ]
    (pod,) = pods(objects)
    found = variables(pod.container("gateway"), objects)
    assert (found["PGN_DEADLINE_S"], found["BOTH"], found["CORES"]) == ("7", "0.0.0.0:7", "1")


def test_the_facts_are_those_of_the_code() -> None:
    """Paths and keys are found where they are made; an empty list would make every check pass, or none."""
    assert {"/livez", "/readyz", "/livez/torchserve", "/metrics"} <= gateway_paths()
    assert {"inference_address", "vmargs", "job_queue_size"} <= torchserve_keys()
    assert "inference_adress" not in torchserve_keys()
    assert "deadline_s" in Settings.model_fields
