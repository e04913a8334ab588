"""What we want of each pod: security, resources, life. One function a rule, each a list of faults."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, Final

from k8s.check.objects import Container, Pod, label, of_kind, pods, quantity
from k8s.check.render import Object

# --- security ---


def restricted(objects: Sequence[Object]) -> Iterator[str]:
    """Pod Security Standards, profile "restricted", as of Kubernetes 1.34."""
    for pod in pods(objects):
        yield from (f"{pod.name}: {fault}" for fault in _pod_faults(pod))
        for container in pod.containers:
            yield from (f"{pod.name}, {container.name}: {fault}" for fault in _container_faults(pod, container))


# What a volume of a restricted pod may be.
_VOLUMES: Final = {
    "configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret",
}  # fmt: skip


def _pod_faults(pod: Pod) -> Iterator[str]:
    for field in ("hostNetwork", "hostPID", "hostIPC"):
        if pod.spec.get(field):
            yield f"{field} is set"
    for name, volume in pod.volumes.items():
        if kinds := set(volume) - {"name"} - _VOLUMES:
            yield f"volume {name} is a {', '.join(sorted(kinds))}"
    if sysctls := pod.spec.get("securityContext", {}).get("sysctls"):
        yield f"it sets sysctls {[each['name'] for each in sysctls]}"


def _container_faults(pod: Pod, container: Container) -> Iterator[str]:
    own = container.spec.get("securityContext", {})
    both = {**pod.spec.get("securityContext", {}), **own}
    if own.get("privileged"):
        yield "it is privileged"
    if own.get("allowPrivilegeEscalation") is not False:
        yield "allowPrivilegeEscalation is not false"
    if own.get("capabilities", {}).get("drop") != ["ALL"]:
        yield "it does not drop ALL capabilities"
    if added := set(own.get("capabilities", {}).get("add", ())) - {"NET_BIND_SERVICE"}:
        yield f"it adds capabilities {sorted(added)}"
    if both.get("runAsNonRoot") is not True or both.get("runAsUser", 1) == 0:
        yield "it may run as root"
    if both.get("seccompProfile", {}).get("type") not in ("RuntimeDefault", "Localhost"):
        yield "it has no seccomp profile"
    if both.get("appArmorProfile", {}).get("type", "RuntimeDefault") == "Unconfined":
        yield "AppArmor is off"
    if own.get("procMount", "Default") != "Default":
        yield "it sees another /proc"
    yield from (
        f"it takes port {each['hostPort']} of the node"
        for each in container.spec.get("ports", ())
        if each.get("hostPort")
    )
    for where in (*container.probes.values(), *container.spec.get("lifecycle", {}).values()):
        if host := next((where[how].get("host") for how in ("httpGet", "tcpSocket") if how in where), None):
            yield f"a probe or hook asks another host, {host}"


def locked_down(objects: Sequence[Object]) -> Iterator[str]:
    """Root file system read only, one user everywhere, no token of the API, no variables from Services."""
    for pod in pods(objects):
        context = pod.spec.get("securityContext", {})
        if pod.spec.get("automountServiceAccountToken") is not False:
            yield f"{pod.name}: it gets a token of the Kubernetes API"
        if pod.spec.get("enableServiceLinks") is not False:
            yield f"{pod.name}: Services set variables in it, some of which begin with PGN_"
        if "serviceAccountName" not in pod.spec:
            yield f"{pod.name}: it runs as the namespace's default ServiceAccount"
        users = {
            each.spec.get("securityContext", {}).get("runAsUser", context.get("runAsUser")) for each in pod.containers
        }
        if len(users) > 1 or None in users:
            yield f"{pod.name}: its containers share files and have users {sorted(map(str, users))}"
        if context.get("fsGroup") is None and any("emptyDir" not in each for each in pod.volumes.values()):
            yield f"{pod.name}: without fsGroup its user may not read its volumes"
        for container in pod.containers:
            if container.spec.get("securityContext", {}).get("readOnlyRootFilesystem") is not True:
                yield f"{pod.name}, {container.name}: its root file system can be written"


# --- resources ---


def resources_named(objects: Sequence[Object]) -> Iterator[str]:
    """Every container says what it asks for and what it may take; memory and GPUs are asked for as limited, or less."""
    for pod in pods(objects):
        for container in pod.containers:
            where = f"{pod.name}, {container.name}"
            for name in ("cpu", "memory", "ephemeral-storage"):
                asked, most = container.resource("requests", name), container.resource("limits", name)
                if not asked or not most:
                    yield f"{where}: no {'request' if not asked else 'limit'} of {name}"
                elif asked > most:
                    yield f"{where}: it asks for more {name} than it may take"
            limits = container.spec.get("resources", {}).get("limits", {})
            for name in (each for each in limits if "/" in each):
                # Extended resources are whole pieces: a request that differs is refused.
                if container.resource("requests", name) not in (0, container.resource("limits", name)):
                    yield f"{where}: {name} is asked for and limited differently"


def volumes_sized(objects: Sequence[Object]) -> Iterator[str]:
    """Every writable folder has a size, and what lies in memory fits into the limits of those who mount it."""
    for pod in pods(objects):
        in_memory = {}
        for name, volume in pod.volumes.items():
            if (folder := volume.get("emptyDir")) is None:
                continue
            if "sizeLimit" not in folder:
                yield f"{pod.name}: volume {name} has no sizeLimit"
            elif folder.get("medium") == "Memory":
                in_memory[name] = quantity(folder["sizeLimit"])
        for container in pod.containers:
            taken = sum(in_memory.get(each["name"], 0) for each in container.mounts)
            if taken > container.resource("limits", "memory") / 2:
                yield f"{pod.name}, {container.name}: volumes in memory may take more than half of its memory"
        on_disk = sum(
            quantity(folder.get("sizeLimit", 0))
            for each in pod.volumes.values()
            if (folder := each.get("emptyDir")) and folder.get("medium") != "Memory"
        )
        # What a pod may take is what its containers may take at one time: those that stay, or one of those before them.
        by_role = {
            role: [each.resource("limits", "ephemeral-storage") for each in pod.containers if each.role == role]
            for role in ("init", "sidecar", "main")
        }
        allowed = max(sum(by_role["sidecar"]) + sum(by_role["main"]), max(by_role["init"], default=0))
        if on_disk > allowed:
            sizes = f"{on_disk / 2**30:.1f} GiB, and its containers may take {allowed / 2**30:.1f} GiB"
            yield f"{pod.name}: its volumes may take {sizes}"


def volumes_mounted(objects: Sequence[Object]) -> Iterator[str]:
    """Every volume is mounted, every mount names a volume, none hides another, and each container has a /tmp."""
    for pod in pods(objects):
        names = {mount["name"] for container in pod.containers for mount in container.mounts}
        yield from (f"{pod.name}: volume {name} is mounted nowhere" for name in pod.volumes.keys() - names)
        yield from (
            f"{pod.name}: a mount names volume {name}, which is not there" for name in names - pod.volumes.keys()
        )
        for container in pod.containers:
            where = f"{pod.name}, {container.name}"
            paths = Counter(each["mountPath"] for each in container.mounts)
            yield from (f"{where}: two mounts at {path}" for path, count in paths.items() if count > 1)
            if container.role != "init" and not any(path in ("/tmp", "/tmp/") for path in paths):  # noqa: S108
                yield f"{where}: nothing can be written to /tmp"


def gpus_apart(objects: Sequence[Object]) -> Iterator[str]:
    """Who asks for a GPU tolerates its nodes' taint, alone in its pod; nobody else tolerates anything."""
    for pod in pods(objects):
        holders = [
            each.name
            for each in pod.containers
            if any(name.startswith("nvidia.com/") for name in each.spec.get("resources", {}).get("limits", {}))
        ]
        tolerated = [each.get("key", "everything") for each in pod.spec.get("tolerations", ())]
        if len(holders) > 1:
            yield f"{pod.name}: {' and '.join(holders)} would each get a GPU of its own"
        if holders and "nvidia.com/gpu" not in tolerated:
            yield f"{pod.name}: it asks for a GPU and does not tolerate nvidia.com/gpu"
        if not holders and tolerated:
            yield f"{pod.name}: it needs no GPU and tolerates {', '.join(tolerated)}"
        if "everything" in tolerated:
            yield f"{pod.name}: it tolerates every taint"


# --- life ---


def probed(objects: Sequence[Object]) -> Iterator[str]:
    """Whatever serves has a startup and a liveness probe, the pod a readiness probe; all have room to answer in."""
    for pod in pods(objects):
        for container in pod.containers:
            where = f"{pod.name}, {container.name}"
            if container.role == "init" and container.probes:
                yield f"{where}: it ends before the next begins, and has probes"
            if container.role == "init" or not pod.serves:
                continue
            yield from (f"{where}: no {kind} probe" for kind in ("startup", "liveness") if kind not in container.probes)
            for kind, probe in container.probes.items():
                if probe.get("timeoutSeconds", 1) > probe.get("periodSeconds", 10) and kind != "startup":
                    yield f"{where}: the {kind} probe may take longer than its period"
                if probe.get("timeoutSeconds", 1) < 2:
                    yield f"{where}: the {kind} probe fails when an answer takes a second"
        if pod.serves and not any("readiness" in each.probes for each in pod.containers if each.role == "main"):
            yield f"{pod.name}: no readiness probe"


def starts_in_order(objects: Sequence[Object]) -> Iterator[str]:
    """A sidecar's startup probe asks nobody who starts after it: that would wait for ever."""
    for pod in pods(objects):
        for number, container in enumerate(pod.containers):
            later = {port for each in pod.containers[number + 1 :] for port in each.ports.values()}
            port = _probed_port(container, container.probes.get("startup", {}))
            if container.role == "sidecar" and port in later:
                yield f"{pod.name}, {container.name}: its startup probe asks port {port}, which opens later"


def probes_meet_a_port(objects: Sequence[Object]) -> Iterator[str]:
    """A probe by number asks a port that some container of the pod declares; one by name asks its own container's."""
    for pod in pods(objects):
        for container in pod.containers:
            for kind, probe in container.probes.items():
                asked = next((probe[how]["port"] for how in ("httpGet", "tcpSocket", "grpc") if how in probe), None)
                known = container.ports if isinstance(asked, str) else set(pod.ports().values())
                if asked is not None and asked not in known:
                    yield f"{pod.name}, {container.name}: the {kind} probe asks port {asked}, which is not declared"


def _probed_port(container: Container, probe: dict[str, Any]) -> int | None:
    for how in ("httpGet", "tcpSocket", "grpc"):
        if how in probe:
            port = probe[how]["port"]
            return container.ports.get(port) if isinstance(port, str) else int(port)
    return None


def images_fixed(objects: Sequence[Object]) -> Iterator[str]:
    """Every image has a tag that is not `latest`, or a digest, and every container of a pod the same image."""
    for pod in pods(objects):
        images = {each.spec["image"] for each in pod.containers}
        for image in images:
            tag = image.rpartition("/")[2].partition("@")[0].partition(":")[2]
            if "@sha256:" not in image and tag in ("", "latest"):
                yield f"{pod.name}: image {image} is another one tomorrow"
        if len({image for image in images if image.rpartition("/")[2].startswith("pgn-serve")}) > 1:
            yield f"{pod.name}: its containers are of different images: {', '.join(sorted(images))}"


def rollouts_end(objects: Sequence[Object]) -> Iterator[str]:
    """How a Deployment moves on is said, can move, and keeps old revisions to go back to."""
    for each in of_kind(objects, "Deployment"):
        spec = each["spec"]
        rolling = spec.get("strategy", {}).get("rollingUpdate")
        if spec.get("strategy", {}).get("type") == "Recreate":
            yield f"{label(each)}: every update takes the service away"
        elif not rolling or not {"maxSurge", "maxUnavailable"} <= rolling.keys():
            yield f"{label(each)}: maxSurge and maxUnavailable are left to their defaults"
        elif {str(rolling["maxSurge"]), str(rolling["maxUnavailable"])} == {"0"}:
            yield f"{label(each)}: neither one more nor one less is allowed, so no update starts"
        if spec.get("revisionHistoryLimit", 10) < 2:
            yield f"{label(each)}: nothing is kept to roll back to"
        if "progressDeadlineSeconds" not in spec:
            yield f"{label(each)}: how long a rollout may take is not said"
