"""Reading objects: the pods in them, the containers in those, and quantities."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, Literal

from k8s.check.render import Object

_WORKLOADS: Final = ("Deployment", "StatefulSet", "DaemonSet", "ReplicaSet", "Job")
_FACTORS: Final = {
    "": 1.0,
    "m": 1e-3,
    **{unit: 1000.0**power for power, unit in enumerate(("k", "M", "G", "T"), start=1)},
    **{unit: 1024.0**power for power, unit in enumerate(("Ki", "Mi", "Gi", "Ti"), start=1)},
}


def label(object_: Object) -> str:
    """`Kind/name`, for messages."""
    return f"{object_['kind']}/{object_['metadata'].get('name', '?')}"


def quantity(text: str | int | float) -> float:
    """A quantity of Kubernetes, in its unit: bytes, cores, pieces.

    Raises:
        ValueError: It is none.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([a-zA-Z]*)", str(text))
    if match is None or match[2] not in _FACTORS:
        raise ValueError(f"{text!r} is no quantity")
    return float(match[1]) * _FACTORS[match[2]]


def expand(text: str, known: Mapping[str, str]) -> str:
    """`$(NAME)` as Kubernetes replaces it; `$$` is a dollar, an unknown name stays."""

    def value(match: re.Match[str]) -> str:
        return match[0][1:] if match[0].startswith("$$") else known.get(match[1], match[0])

    return re.sub(r"\$\$(?:\(\w+\))?|\$\((\w+)\)", value, text)


@dataclass(frozen=True)
class Container:
    """One container of a pod.

    Attributes:
        role: `init` ends before the next begins; a `sidecar` is an init container that stays; `main` is the rest.
    """

    role: Literal["init", "sidecar", "main"]
    spec: dict[str, Any]

    @property
    def name(self) -> str:
        return str(self.spec["name"])

    @property
    def command(self) -> list[str]:
        """Program and arguments, where the manifest says them."""
        return [*self.spec.get("command", ()), *self.spec.get("args", ())]

    @property
    def mounts(self) -> list[dict[str, Any]]:
        return list(self.spec.get("volumeMounts", ()))

    @property
    def probes(self) -> dict[str, dict[str, Any]]:
        """By kind: startup, liveness, readiness."""
        kinds = ("startup", "liveness", "readiness")
        return {kind: self.spec[f"{kind}Probe"] for kind in kinds if f"{kind}Probe" in self.spec}

    @property
    def ports(self) -> dict[str, int]:
        """By name."""
        return {
            each.get("name", str(each["containerPort"])): each["containerPort"] for each in self.spec.get("ports", ())
        }

    def resource(self, part: Literal["requests", "limits"], name: str) -> float:
        """What it asks for, or may take; 0 where nothing is said."""
        return quantity(self.spec.get("resources", {}).get(part, {}).get(name, 0))


@dataclass(frozen=True)
class Pod:
    """The pods that an object makes.

    Attributes:
        owner: That object.
        labels: Of each pod.
        spec: Of each pod.
    """

    owner: Object
    labels: Mapping[str, str]
    spec: dict[str, Any]

    @property
    def name(self) -> str:
        return label(self.owner)

    @property
    def serves(self) -> bool:
        """It runs until it is told to end."""
        return self.owner["kind"] not in ("Job", "CronJob", "Pod")

    @cached_property
    def containers(self) -> tuple[Container, ...]:
        """In the order in which they start."""
        first = [
            Container("sidecar" if each.get("restartPolicy") == "Always" else "init", each)
            for each in self.spec.get("initContainers", ())
        ]
        return (*first, *(Container("main", each) for each in self.spec["containers"]))

    @property
    def volumes(self) -> dict[str, dict[str, Any]]:
        return {each["name"]: each for each in self.spec.get("volumes", ())}

    def container(self, name: str) -> Container:
        """The one of that name."""
        (found,) = (each for each in self.containers if each.name == name)
        return found

    def ports(self) -> dict[str, int]:
        """All named ports."""
        return {name: port for each in self.containers for name, port in each.ports.items()}


def pods(objects: Iterable[Object]) -> Iterator[Pod]:
    """The pods that the objects make."""
    for each in objects:
        if each["kind"] in _WORKLOADS:
            template = each["spec"]["template"]
        elif each["kind"] == "CronJob":
            template = each["spec"]["jobTemplate"]["spec"]["template"]
        elif each["kind"] == "Pod":
            template = each
        else:
            continue
        yield Pod(each, template["metadata"].get("labels", {}), template["spec"])


def of_kind(objects: Iterable[Object], *kinds: str) -> list[Object]:
    """The objects of these kinds."""
    return [each for each in objects if each["kind"] in kinds]


def selects(selector: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    """Whether a label selector fits; an empty one fits everything."""
    if any(labels.get(name) != value for name, value in selector.get("matchLabels", {}).items()):
        return False
    for each in selector.get("matchExpressions", ()):
        name, values = each["key"], each.get("values", ())
        holds = {
            "In": labels.get(name) in values,
            "NotIn": labels.get(name) not in values,
            "Exists": name in labels,
            "DoesNotExist": name not in labels,
        }[each["operator"]]
        if not holds:
            return False
    return True
