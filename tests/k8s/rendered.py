"""The rendered manifests, for every test that looks at them; each combination is rendered once a run."""

from __future__ import annotations

from functools import cache

from k8s.check.combinations import ALL, Combination
from k8s.check.render import Object, RenderError, kustomize, parse, render, render_text

__all__ = [
    "ALL",
    "CPU",
    "Combination",
    "Object",
    "RenderError",
    "every",
    "find",
    "kustomize",
    "objects_of",
    "parse",
    "render",
    "render_text",
]

CPU = Combination("overlays/cpu")


@cache
def objects_of(combination: Combination) -> tuple[Object, ...]:
    """The objects of a combination, not to be changed; `render` gives copies that may be."""
    return tuple(render(combination))


def every(kind: str) -> list[tuple[Combination, Object]]:
    """All objects of a kind with the combination that they stand in; not to be changed."""
    return [(each, found) for each in ALL for found in objects_of(each) if found["kind"] == kind]


def find(combination: Combination, kind: str, name: str | None = None) -> Object:
    """The one object of that kind, and of that name if one is given."""
    (found,) = (
        each
        for each in render(combination)
        if each["kind"] == kind and (name is None or each["metadata"]["name"] == name)
    )
    return found
