"""What a pod's containers are given: variables and volumes, from the manifests that name them."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from k8s.check.objects import Container, Pod, expand, quantity
from k8s.check.render import Object
from tests.k8s.boxes import Image, Mount
from tests.k8s.probes import ADDRESS

_KNOWN_VOLUMES: Final = {"name", "emptyDir", "configMap", "secret", "projected"}


class Environment:
    """What the containers of a pod find in their environment."""

    def __init__(self, pod: Pod, objects: Sequence[Object]) -> None:
        self._pod = pod
        self._texts = {(each["kind"], each["metadata"]["name"]): _data(each) for each in objects}
        self._services = [each for each in objects if each["kind"] == "Service"]

    def of(self, container: Container, image: Image) -> dict[str, str]:
        """The whole environment of a container."""
        env = dict(image.env) | {"HOSTNAME": "rehearsed"}
        if self._pod.spec.get("enableServiceLinks", True):
            for each in self._services:
                name = each["metadata"]["name"].upper().replace("-", "_")
                env |= {f"{name}_SERVICE_HOST": "10.96.0.1", f"{name}_PORT": "tcp://10.96.0.1:80"}
        for each in container.spec.get("envFrom", ()):
            (source,) = (key for key in each if key.endswith("Ref"))
            kind = {"configMapRef": "ConfigMap", "secretRef": "Secret"}[source]
            data = self._texts[kind, each[source]["name"]]
            env |= {each.get("prefix", "") + name: value.decode() for name, value in data.items()}
        for each in container.spec.get("env", ()):
            env[each["name"]] = self._value(each, env)
        return env

    def _value(self, variable: dict[str, Any], known: Mapping[str, str]) -> str:
        if "valueFrom" not in variable:
            return expand(str(variable.get("value", "")), known)
        ((source, ref),) = variable["valueFrom"].items()
        if source == "configMapKeyRef":
            return self._texts["ConfigMap", ref["name"]][ref["key"]].decode()
        if source == "secretKeyRef":
            return self._texts["Secret", ref["name"]][ref["key"]].decode()
        if source == "resourceFieldRef":
            part, _, name = ref["resource"].partition(".")
            whole = self._pod.container(ref["containerName"]).resource(part, name)
            return f"{-(-whole // quantity(ref.get('divisor', 1))):.0f}"  # rounded up
        return {"metadata.name": "rehearsed", "metadata.namespace": "pgn", "status.podIP": ADDRESS}[ref["fieldPath"]]


class Volumes:
    """The pod's volumes as folders; what may be written to is as large as it says.

    Raises:
        ValueError: One of a kind that cannot be rehearsed.
    """

    def __init__(self, pod: Pod, objects: Sequence[Object], folder: Path) -> None:
        texts = {(each["kind"], each["metadata"]["name"]): _data(each) for each in objects}
        self._folders: dict[str, Path] = {}
        for name, volume in pod.volumes.items():
            if unknown := set(volume) - _KNOWN_VOLUMES:
                raise ValueError(f"volume {name}: {', '.join(sorted(unknown))} cannot be rehearsed")
            self._folders[name] = made = folder / name
            made.mkdir(parents=True)
            if "emptyDir" in volume:
                _mount_tmpfs(made, quantity(volume["emptyDir"].get("sizeLimit", "64Mi")))
                continue
            for source in volume.get("projected", {}).get("sources", (volume,)):
                _write(made, source, texts)

    def of(self, container: Container) -> list[Mount]:
        """Where a container sees which of them."""
        found = []
        for each in container.mounts:
            source = self._folders[each["name"]] / each.get("subPath", "")
            found.append(Mount(source, each["mountPath"].rstrip("/"), each.get("readOnly", False)))
        return found


def _mount_tmpfs(folder: Path, size: float) -> None:
    options = f"size={size:.0f},mode=2777"  # a kubelet makes them so, for the group that fsGroup says
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", folder], check=True)


def _write(folder: Path, source: Mapping[str, Any], texts: Mapping[tuple[str, str], Mapping[str, bytes]]) -> None:
    """The files of a ConfigMap or a Secret."""
    kind, ref = ("ConfigMap", source["configMap"]) if "configMap" in source else ("Secret", source["secret"])
    name = ref.get("name", ref.get("secretName"))
    if (kind, name) not in texts:
        if ref.get("optional"):
            return
        raise ValueError(f"there is no {kind} {name}")
    chosen = {each["key"]: each["path"] for each in ref.get("items", ())}
    for key, content in texts[kind, name].items():
        if not chosen or key in chosen:
            (folder / chosen.get(key, key)).write_bytes(content)


def _data(object_: Object) -> dict[str, bytes]:
    if object_["kind"] not in ("ConfigMap", "Secret"):
        return {}
    texts = {**object_.get("data", {}), **object_.get("stringData", {})}
    return {name: str(text).encode() for name, text in texts.items()}
