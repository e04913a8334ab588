"""Who a bare cluster lacks, and whom tests want to direct: nodes, kubelets that say that pods are ready, metrics."""

from __future__ import annotations

import json
import ssl
import threading
from contextlib import suppress
from datetime import datetime, timedelta, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import unquote, urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from typing_extensions import Self

from k8s.check.render import Object
from tests.cluster.kubectl import Kubectl, Refused
from tests.cluster.manifests import NODE_LABEL

METRIC = "pgn_in_flight"
API = "/apis/custom.metrics.k8s.io/v1beta1"


class Kubelets:
    """Say of every new pod of a namespace that it runs and is ready; a context manager.

    Attributes:
        paused: While set, new pods stay as they are.
    """

    def __init__(self, cluster: Kubectl) -> None:
        self._cluster = cluster
        self._stop = threading.Event()
        self.paused = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(0.5):
            if self.paused.is_set():
                continue
            with suppress(Refused):  # a pod that is gone by now
                for pod in self._cluster.find("pods"):
                    if not is_ready(pod) and "deletionTimestamp" not in pod["metadata"]:
                        self._cluster.patch("pod", pod["metadata"]["name"], ready_status(), subresource="status")


class GpuNodes:
    """Nodes with one GPU each that nobody but pods of the namespace may use; a context manager.

    Their kubelet starts what the scheduler binds to them, and ends what is deleted.

    Args:
        cluster: Whose namespace they are for.
        count: How many, each in a zone of its own.
    """

    def __init__(self, cluster: Kubectl, count: int) -> None:
        self._cluster = cluster
        self.names = [f"{cluster.namespace}-{number}" for number in range(count)]
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._cluster.apply(*(gpu_node(name, self._cluster.namespace) for name in self.names))
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        # While there is still a kubelet to let go of them: pods of a node that is gone hold up the namespace's end.
        self._cluster.run("delete", "job,deployment", "--all", "--cascade=foreground", "--timeout=30s")
        self._stop.set()
        self._thread.join()
        self._cluster.run("delete", "node", *self.names, "--ignore-not-found")

    def _run(self) -> None:
        while True:
            for name in self.names:
                self._cluster.patch("node", name, node_status(), subresource="status")
            for pod in self._cluster.find("pods"):
                if pod["spec"].get("nodeName") in self.names:
                    with suppress(Refused):  # it is gone by now
                        self._tend(pod)
            if self._stop.wait(0.5):
                return

    def _tend(self, pod: Object) -> None:
        name = pod["metadata"]["name"]
        if pod["status"]["phase"] == "Failed":
            return  # said once: Jobs wait from then on before they try again
        if "deletionTimestamp" in pod["metadata"]:
            # What SIGTERM ended has failed; so says a kubelet, and then lets go of it.
            ended = ready_status(ready=False)
            ended["status"]["phase"] = "Failed"
            self._cluster.patch("pod", name, ended, subresource="status")
            self._cluster.run("delete", "pod", name, "--grace-period=0", "--force", "--wait=false")
        elif not is_ready(pod):
            self._cluster.patch("pod", name, ready_status(), subresource="status")


def gpu_node(name: str, label: str) -> Object:
    """A node as GPU nodes are: labelled and tainted."""
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": name,
            "labels": {
                NODE_LABEL: label,
                "kubernetes.io/hostname": name,
                "topology.kubernetes.io/zone": name,
                "nvidia.com/gpu.present": "true",
            },
        },
        "spec": {"taints": [{"key": "nvidia.com/gpu", "value": "present", "effect": "NoSchedule"}]},
    }


def node_status() -> dict[str, Any]:
    """What the kubelet of such a node writes, again and again."""
    now = timestamp()
    room = {"cpu": "16", "memory": "64Gi", "ephemeral-storage": "200Gi", "pods": "100", "nvidia.com/gpu": "1"}
    ready = {"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "stand-in"}
    times = {"lastHeartbeatTime": now, "lastTransitionTime": now}
    return {"status": {"capacity": room, "allocatable": room, "conditions": [ready | times]}}


def timestamp() -> str:
    """Now, as Kubernetes writes it."""
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def is_ready(pod: Object) -> bool:
    """Whether a pod's own conditions say so."""
    conditions = pod.get("status", {}).get("conditions", ())
    return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)


def ready_status(ready: bool = True) -> dict[str, Any]:
    """What a kubelet would write."""
    now = timestamp()
    status = "True" if ready else "False"
    kinds = ("PodScheduled", "Initialized", "ContainersReady", "Ready")
    conditions = [{"type": kind, "status": status, "lastTransitionTime": now} for kind in kinds]
    return {"status": {"phase": "Running", "startTime": now, "conditions": conditions}}


class FedMetrics:
    """An API of custom metrics that says what it is told; a context manager.

    Args:
        cluster: Its pods are what is told about.
        folder: For the certificate.
        host: Under which the API server reaches this machine.

    Attributes:
        value: In flight in each pod.
    """

    def __init__(self, cluster: Kubectl, folder: Path, host: str) -> None:
        self._cluster = cluster
        self._host = host
        self.value = 0
        self._server = ThreadingHTTPServer((host, 0), self._handler())
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(write_certificate(folder, host))
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    def objects(self) -> list[Object]:
        """What tells the API server to ask here: a Service that is a name, which the aggregator follows."""
        namespace = self._cluster.namespace
        group, version = API.split("/")[2:]
        service = {
            "type": "ExternalName",
            "externalName": self._host,
            "ports": [{"port": self.port, "protocol": "TCP"}],
        }
        return [
            {
                "apiVersion": "v1",
                "kind": "Service",
                "metadata": {"name": "fed-metrics", "namespace": namespace},
                "spec": service,
            },
            {
                "apiVersion": "apiregistration.k8s.io/v1",
                "kind": "APIService",
                "metadata": {"name": f"{version}.{group}"},
                "spec": {
                    "group": group,
                    "version": version,
                    "groupPriorityMinimum": 100,
                    "versionPriority": 100,
                    "insecureSkipTLSVerify": True,
                    "service": {"name": "fed-metrics", "namespace": namespace, "port": self.port},
                },
            },
        ]

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def answer(self, path: str) -> dict[str, Any] | None:
        """The document at a path; None if there is none."""
        if path == API:
            resource = {"name": f"pods/{METRIC}", "namespaced": True, "kind": "MetricValueList", "verbs": ["get"]}
            group_version = API.removeprefix("/apis/")
            return {
                "kind": "APIResourceList",
                "apiVersion": "v1",
                "groupVersion": group_version,
                "resources": [resource],
            }
        if path == f"{API}/namespaces/{self._cluster.namespace}/pods/*/{METRIC}":
            pods = [each["metadata"]["name"] for each in self._cluster.find("pods", "app.kubernetes.io/name=pgn-serve")]
            return metric_list(self._cluster.namespace, pods, self.value)
        return None

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        answer = self.answer

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                found = answer(unquote(urlsplit(self.path).path))  # the HPA's controller writes * as %2A
                body = json.dumps(found or {"kind": "Status", "code": 404}).encode()
                self.send_response(200 if found else 404)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        return Handler


def metric_list(namespace: str, pods: list[str], value: int) -> dict[str, Any]:
    """One value for each pod, as the HPA's controller reads them."""
    now = datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    items = [
        {
            "describedObject": {"kind": "Pod", "apiVersion": "/v1", "namespace": namespace, "name": name},
            "metricName": METRIC,
            "timestamp": now,
            "value": str(value),
            "selector": None,
        }
        for name in pods
    ]
    return {"kind": "MetricValueList", "apiVersion": API.removeprefix("/apis/"), "metadata": {}, "items": items}


def write_certificate(folder: Path, host: str) -> Path:
    """A key and a certificate that it has signed itself, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)])
    now = datetime.now(timezone.utc)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path = folder / "metrics.pem"
    path.write_bytes(private + certificate.public_bytes(serialization.Encoding.PEM))
    path.chmod(0o600)
    return path
