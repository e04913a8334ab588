"""The API's own view: each object against the schemas of each Kubernetes minor that we support, strictly."""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import cache
from typing import Final

import kubernetes_validate
from jsonschema.exceptions import ValidationError

from k8s.check import crds
from k8s.check.objects import label
from k8s.check.render import Object

MINORS: Final = ("1.33", "1.34")
"""1.33 is the first with native sidecars as a stable feature."""


def faults(objects: Iterable[Object], minor: str) -> list[str]:
    """Unknown kinds, unknown fields and wrong types, a line each."""
    return [f"{label(each)}: {fault}" for each in objects for fault in _faults(json.dumps(each), minor)]


@cache  # most objects are the same in many combinations, and each look reads the whole schema anew
def _faults(text: str, minor: str) -> tuple[str, ...]:
    each = json.loads(text)
    if (each["apiVersion"], each["kind"]) in crds.KNOWN:
        return tuple(crds.faults(each))
    try:
        kubernetes_validate.validate(each, minor, strict=True)
    except kubernetes_validate.ValidationError as error:
        return (_line(error),)
    except kubernetes_validate.SchemaNotFoundError:
        kind = f"{each['apiVersion']} {each['kind']}"
        return (f"Kubernetes {minor} has no {kind}, and k8s/check/crds.py does not list it",)
    return ()


def _line(error: ValidationError) -> str:
    where = ".".join(map(str, error.absolute_path)) or "the object"
    return f"{where}: {error.message}"
