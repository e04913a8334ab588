"""The stand-in for a kubelet does what a kubelet does; small pods of shell scripts show it.

Else the rehearsal of the real pod (test_pod.py) would prove nothing.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from k8s.check.objects import Pod
from tests.k8s.boxes import python_image
from tests.k8s.inputs import Volumes
from tests.k8s.rehearsal import Rehearsal, rehearsed
from tests.servers import wait_until

pytestmark = pytest.mark.usefixtures("namespaces")

FOREVER = "trap 'exit 0' TERM; touch /data/$0; while :; do sleep 0.05; done"
DATA = [{"name": "data", "mountPath": "/data"}]


def container(name: str, script: str, **fields: Any) -> dict[str, Any]:
    """A container that runs a shell script; it is up when the script has made the file /data/NAME."""
    up = asks(f"test -e /data/{name}")
    return {"name": name, "command": ["sh", "-c", script, name], "volumeMounts": DATA, "startupProbe": up, **fields}


def asks(script: str, **fields: Any) -> dict[str, Any]:
    """A probe that runs a shell script, more often than a cluster allows."""
    probe = {"periodSeconds": 0.1, "timeoutSeconds": 5, "failureThreshold": 100}
    return {"exec": {"command": ["sh", "-c", script]}, **probe, **fields}


@contextmanager
def running(folder: Path, *main: dict[str, Any], first: Any = (), grace_s: int = 20) -> Iterator[Rehearsal]:
    """A pod of these containers, which share a folder of one megabyte, and with a ConfigMap and a Secret."""
    spec = {
        "containers": list(main),
        "initContainers": list(first),
        "terminationGracePeriodSeconds": grace_s,
        "volumes": [
            {"name": "data", "emptyDir": {"sizeLimit": "1Mi"}},
            {"name": "files", "configMap": {"name": "files"}},
            {"name": "keys", "secret": {"secretName": "keys", "optional": True}},
        ],
    }
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}, "spec": spec}
    files = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "files"}, "data": {"a": "1", "B": "two"}}
    with rehearsed([pod, files], folder, python_image()) as rehearsal:
        yield rehearsal


def end(pod: Rehearsal) -> list[str]:
    """Delete the pod; what happened from then on."""
    pod.delete()
    wait_until(pod.is_gone, "the end of the pod", 30)
    events = pod.events()
    return events[events.index("deleted") + 1 :]


def test_containers_start_in_order_and_end_in_reverse(tmp_path: Path) -> None:
    """A sidecar is up before the next container begins, and is there until the main one has ended."""
    init = {"name": "init", "command": ["true"]}
    first = [init, *(container(name, FOREVER, restartPolicy="Always") for name in ("sidecar", "late"))]
    with running(tmp_path, container("main", FOREVER), first=first) as pod:
        pod.wait_ready(30)
        assert pod.events() == [
            "init started",
            "init ended 0",
            "sidecar started",
            "sidecar is up",
            "late started",
            "late is up",
            "main started",
            "main is up",
        ]
        assert end(pod) == [
            "main SIGTERM",
            "main ended 0",
            "late SIGTERM",
            "late ended 0",
            "sidecar SIGTERM",
            "sidecar ended 0",
            "gone",
        ]


def test_a_container_can_write_where_a_volume_says_so_and_nowhere_else(tmp_path: Path) -> None:
    """Read-only root, sizes, user and capabilities are the kernel's doing, not the test's word."""
    reader = {"name": "reader", "command": ["sleep", "60"], "volumeMounts": [{**DATA[0], "readOnly": True}]}
    with running(tmp_path, container("main", FOREVER), reader) as pod:
        pod.wait_ready(30)
        assert pod.run("main", "sh", "-c", "test $(id -u) = 1000 && test $$ != 1") == 0
        assert pod.run("main", "sh", "-c", "echo 1 > /data/seen") == 0
        assert pod.run("reader", "grep", "1", "/data/seen") == 0
        assert pod.run("main", "sh", "-c", "head -c 2000000 /dev/zero > /data/large") != 0
        for name, path in (("main", "/new"), ("main", "/tmp/new"), ("main", "/usr/new"), ("reader", "/data/new")):
            assert pod.run(name, "touch", path) != 0, path
        assert pod.run("main", "mount", "-o", "remount,rw", "/") != 0
        assert pod.run("main", "grep", "-q", "CapEff:.0000000000000000", "/proc/self/status") == 0


def test_whoever_dies_is_started_again(tmp_path: Path) -> None:
    """At once the first time; the others do not notice."""
    with running(tmp_path, container("main", FOREVER), container("other", FOREVER)) as pod:
        pod.wait_ready(30)
        pod.kill("main", signal.SIGKILL)
        pod.wait_for("main ended 137", 30)
        pod.wait_ready(30)
        assert pod.events("main") == ["started", "is up", "ended 137", "started", "is up"]
        assert pod.events("other") == ["started", "is up"]


def test_readiness_comes_and_goes_and_restarts_nothing(tmp_path: Path) -> None:
    """It is about traffic alone."""
    ready = asks("test -e /data/ready", failureThreshold=1)
    with running(tmp_path, container("main", FOREVER, readinessProbe=ready)) as pod:
        pod.wait_for("main is up", 30)
        assert not pod.is_ready()
        pod.run("main", "touch", "/data/ready")
        pod.wait_ready(30)
        pod.run("main", "rm", "/data/ready")
        pod.wait_for("main unready", 30)
        assert pod.events("main") == ["started", "is up", "ready", "unready"]


def test_a_container_that_is_not_live_is_ended_and_started_again(tmp_path: Path) -> None:
    """After as many failures as its threshold says, and not while it has yet to start."""
    live = asks("test -e /data/live", failureThreshold=2)
    slow = container("main", f"sleep 1; {FOREVER}", livenessProbe=live)
    with running(tmp_path, slow) as pod:
        pod.wait_for("main not live", 30)
        pod.run("main", "touch", "/data/live")
        pod.wait_for("main ended 0", 30)
        pod.wait_ready(30)
        assert pod.events("main")[:6] == ["started", "is up", "not live", "SIGTERM", "ended 0", "started"]


def test_probes_by_network_do_not_see_what_listens_on_loopback(tmp_path: Path) -> None:
    """The kubelet asks the pod's address; a probe of 127.0.0.1 that a rehearsal let pass would fail in a cluster."""

    def server(name: str, host: str, port: int) -> dict[str, Any]:
        program = ["python3", "-m", "http.server", "--bind", host, str(port), "--directory", "/data"]
        probe = {
            "httpGet": {"path": "/", "port": "web"},
            "periodSeconds": 1,
            "timeoutSeconds": 5,
            "failureThreshold": 1,
        }
        ports = [{"name": "web", "containerPort": port}]
        return {"name": name, "command": program, "ports": ports, "readinessProbe": probe, "volumeMounts": DATA}

    with running(tmp_path, server("open", "0.0.0.0", 8001), server("closed", "127.0.0.1", 8002)) as pod:
        pod.wait_for("open ready", 60)
        wait_until(lambda: pod.run("closed", "python3", "-c", _CONNECT) == 0, "the closed server to listen", 30)
        assert pod.ask("/", port=8001)[0] == 200
        assert pod.ask("/", port=8002)[0] == 0
        assert "closed ready" not in pod.events()


_CONNECT = "import socket; socket.create_connection(('127.0.0.1', 8002))"


def test_what_does_not_end_in_time_is_killed(tmp_path: Path) -> None:
    """A grace period that is too short shows as what it is."""
    deaf = container("main", f"{FOREVER}".replace("exit 0", ""))
    with running(tmp_path, deaf, grace_s=1) as pod:
        pod.wait_ready(30)
        assert end(pod) == ["main SIGTERM", "main SIGKILL", "main ended 137", "gone"]


def test_the_hook_before_the_end_comes_before_the_signal(tmp_path: Path) -> None:
    """A preStop that is not waited for would be no drain."""
    hook = {"preStop": {"exec": {"command": ["sh", "-c", "echo hook >> /data/order"]}}}
    counts = FOREVER.replace("exit 0", "echo signal >> /data/order; exit $(grep -c . /data/order)")
    with running(tmp_path, container("main", counts, lifecycle=hook)) as pod:
        pod.wait_ready(30)
        assert "main ended 2" in end(pod)


def test_variables_and_files_are_those_of_the_manifest(tmp_path: Path) -> None:
    """ConfigMaps as variables and as files, sizes of the container, the pod's own address; nothing of this machine."""
    variables = [
        {"name": "CORES", "valueFrom": {"resourceFieldRef": {"containerName": "main", "resource": "limits.cpu"}}},
        {"name": "ADDRESS", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
        {"name": "BOTH", "value": "$(X_a)-$(CORES)"},
    ]
    script = f"""set -e
        test "$X_a$X_B$BOTH$ADDRESS" = "1two1-2127.0.0.2"
        test "$(cat /files/a)" = 1
        test -z "$(ls /keys)"
        test -z "$PYTEST_CURRENT_TEST"
        {FOREVER}"""
    main = container(
        "main",
        script,
        env=variables,
        envFrom=[{"prefix": "X_", "configMapRef": {"name": "files"}}],
        resources={"limits": {"cpu": "1500m"}},
        volumeMounts=[*DATA, {"name": "files", "mountPath": "/files"}, {"name": "keys", "mountPath": "/keys"}],
        readinessProbe=asks("true"),
    )
    with running(tmp_path, main) as pod:
        pod.wait_ready(30)
        assert pod.events("main") == ["started", "is up", "ready"]


@pytest.mark.parametrize("volume", [{"hostPath": {"path": "/"}}, {"secret": {"secretName": "lost"}}])
def test_what_cannot_be_rehearsed_is_an_error(volume: dict[str, Any], tmp_path: Path) -> None:
    """Else a rehearsal would pass over what a cluster does not."""
    pod = Pod({"kind": "Pod", "metadata": {"name": "x"}}, {}, {"containers": [], "volumes": [{"name": "v", **volume}]})
    with pytest.raises(ValueError, match=r"cannot be rehearsed|there is no Secret lost"):
        Volumes(pod, [], tmp_path)
