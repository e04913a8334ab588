"""What is rendered and checked: every overlay, every component on an overlay that it fits, and components together."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
K8S: Final = ROOT / "k8s"


@dataclass(frozen=True)
class Combination:
    """A folder of `k8s/`, with what an operator adds to it in a kustomization of their own.

    Attributes:
        folder: An overlay, or a kind of training.
        components: Names of folders in `components/`.
        beside: Further folders whose objects live in the same namespace.
    """

    folder: str
    components: tuple[str, ...] = ()
    beside: tuple[str, ...] = ()

    def __str__(self) -> str:
        return "+".join((self.folder, *self.beside, *self.components))


OVERLAYS: Final = ("cpu", "gpu", "gpu-mig", "gpu-time-slicing", "ha")
TRAINING: Final = ("job", "grid")

# Each component alone, on the overlay where it is most at home.
_ALONE: Final = {
    "s3": "gpu",
    "grafana": "cpu",
    "keda": "gpu",
    "quota": "cpu",
    "gateway-api": "cpu",
    "ingress": "cpu",
    "digests": "gpu",
    "torchserve-port": "gpu",
    "ha": "gpu",
    "namespaced": "cpu",
    "no-spare-gpu": "gpu",
}

_TOGETHER: Final = (
    Combination("overlays/cpu", ("prometheus-operator",), beside=("training/job",)),  # it watches both
    # What a production cluster has at once, with each of the two doors.
    Combination("overlays/ha", ("s3", "grafana", "keda", "quota", "gateway-api", "digests")),
    Combination(
        "overlays/gpu",
        ("s3", "prometheus-operator", "quota", "ingress", "torchserve-port"),
        beside=("training/job",),
    ),
)

# Not to be applied by themselves.
_PARTS: Final = ("training/common",)

ALL: Final = (
    *(Combination(f"overlays/{name}") for name in OVERLAYS),
    *(Combination(f"overlays/{overlay}", (component,)) for component, overlay in _ALONE.items()),
    *_TOGETHER,
    *(Combination(f"training/{name}") for name in TRAINING),
)


def unlisted() -> list[str]:
    """Folders with a kustomization that no combination renders, and folders that are named and missing."""
    there = {
        str(path.parent.relative_to(K8S))
        for part in ("overlays", "components", "training")
        for path in (K8S / part).glob("**/kustomization.yaml")
    }
    folders = {folder for each in ALL for folder in (each.folder, *each.beside)}
    named = folders | {f"components/{name}" for each in ALL for name in each.components} | set(_PARTS)
    return [f"{name} is rendered by no combination" for name in sorted(there - named)] + [
        f"{name} is no folder with a kustomization" for name in sorted(named - there)
    ]
