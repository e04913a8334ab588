"""Every overlay, component and training of `k8s/` renders, alone and together."""

from __future__ import annotations

from pathlib import Path

import pytest

from k8s.check import combinations
from k8s.check.combinations import K8S, unlisted
from tests.k8s.rendered import ALL, CPU, Combination, RenderError, find, kustomize, render, render_text


@pytest.mark.parametrize("combination", ALL, ids=str)
def test_every_combination_renders_without_a_warning(combination: Combination) -> None:
    """A patch that no longer fits its base, or a field of yesterday, fails here and not at the operator's."""
    assert render_text(combination).startswith("apiVersion: ")


def test_no_folder_is_left_out() -> None:
    """A component that nobody renders is a component that nobody has checked."""
    assert unlisted() == []


def test_a_folder_that_is_forgotten_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """The list is kept by hand: what it lacks, and what it has too much, has to be said."""
    listed = tuple(each for each in ALL if "ingress" not in each.components)
    monkeypatch.setattr(combinations, "ALL", (*listed, Combination("overlays/of-yesterday")))
    assert unlisted() == [
        "components/ingress is rendered by no combination",
        "overlays/of-yesterday is no folder with a kustomization",
    ]


@pytest.mark.parametrize("overlay", combinations.OVERLAYS)
def test_an_overlay_is_applied_as_it_is(overlay: str) -> None:
    """`kubectl apply -k k8s/overlays/...` needs no edit: everything lands in the namespace that the overlay makes."""
    objects = render(Combination(f"overlays/{overlay}"))
    (namespace,) = (each["metadata"]["name"] for each in objects if each["kind"] == "Namespace")
    assert {each["metadata"].get("namespace", namespace) for each in objects} == {namespace}


def test_a_change_of_settings_rolls_the_pods() -> None:
    """A pod reads its settings once: the ConfigMap's name holds the hash of its content, and so the pods change too."""
    deployment = find(CPU, "Deployment")
    (source,) = deployment["spec"]["template"]["spec"]["containers"][0]["envFrom"]
    name = source["configMapRef"]["name"]
    assert find(CPU, "ConfigMap", name)["data"]["PGN_ANONYMOUS"] == "true"
    assert name.removeprefix("pgn-serve-settings-")


def test_kustomize_s_own_words_are_passed_on(tmp_path: Path) -> None:
    """Whoever breaks a kustomization reads what is wrong, not that something is."""
    (tmp_path / "kustomization.yaml").write_text("resources: [not-there.yaml]\n")
    with pytest.raises(RenderError, match=r"not-there\.yaml"):
        kustomize(tmp_path)


def test_a_deprecated_field_is_an_error(tmp_path: Path) -> None:
    """Kustomize warns for years before it refuses."""
    (tmp_path / "kustomization.yaml").write_text("commonLabels: {app: pgn}\n")
    with pytest.raises(RenderError, match="deprecated"):
        kustomize(tmp_path)


def test_files_lie_where_an_operator_looks_for_them() -> None:
    """One object a file: a diff of a file is a change of one thing."""
    for path in K8S.glob("base/*.yaml"):
        assert path.read_text().count("\nkind: ") + path.read_text().startswith("kind: ") == 1, path.name
