"""docs/deploy.md: its files render, its commands are those of the program, its paths are there."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path
from typing import Any, Final

import pytest
import typer.main

from k8s.check.render import Object, kustomize, parse
from pgn.cli import app
from pgn.settings import Settings

ROOT: Final = Path(__file__).resolve().parents[2]
PAGE: Final = (ROOT / "docs/deploy.md").read_text()
FILES: Final = dict(re.findall(r"^`(k8s/\S+)`:\n\n```yaml\n(.*?)^```", PAGE, re.M | re.S))


def commands(program: str) -> list[list[str]]:
    """Every call of a program in the page's shell blocks, as words; what a shell would put in is left as it stands."""
    blocks = "\n".join(re.findall(r"^```(?:sh|console)\n(.*?)^```", PAGE, re.M | re.S))
    blocks = re.sub(r"\\\n\s*", " ", re.sub(r"<<'EOF'\n.*?\nEOF", "", blocks, flags=re.S))
    found = []
    for line in blocks.splitlines():
        for part in re.split(r"\s*[|;&]+\s*|\$\(", line.removeprefix("$ ")):
            is_whole = part.count('"') % 2 == part.count("'") % 2 == 0
            words = shlex.split(part, comments=True) if is_whole else part.split()
            before = ["--", *words]  # a call stands first, behind `kubectl exec … --`, or behind a variable
            found += [
                words[n + 1 :] for n, word in enumerate(words) if word == program and re.search("^--$|=", before[n])
            ]
    return found


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of `k8s/` with the page's files in it."""
    folder = tmp_path_factory.mktemp("page")
    shutil.copytree(ROOT / "k8s", folder / "k8s", ignore=shutil.ignore_patterns("__pycache__", ".*"))
    for name, text in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    shutil.copy(ROOT / "k8s/training/job/run.toml", folder / "k8s/training/flowers")
    return folder


def rendered(written: Path, folder: str) -> list[Object]:
    """The objects of one of the page's kustomizations."""
    return list(parse(kustomize(written / folder)))


def containers(pod: dict[str, Any]) -> list[dict[str, Any]]:
    """All of a pod, init containers first."""
    return [*pod.get("initContainers", ()), *pod["containers"]]


def test_the_overlay_of_ones_own_says_what_is_ones_own(written: Path) -> None:
    """Image, bucket, role and host reach every object that names them."""
    objects = {(each["kind"], each["metadata"]["name"]): each for each in rendered(written, "k8s/overlays/mine")}
    pod = objects["Deployment", "pgn-serve"]["spec"]["template"]["spec"]
    assert [each["name"] for each in containers(pod)] == ["sync", "torchserve", "sync-watch", "gateway"]
    assert {each["image"].partition("@")[0] for each in containers(pod)} == {"registry.example.org/vision/pgn-serve"}
    (settings,) = (each["data"] for (kind, name), each in objects.items() if name.startswith("pgn-serve-settings"))
    assert settings["PGN_REMOTE"] == "s3://my-models/vision"
    assert settings["PGN_DEVICE"] == "cuda"
    role = objects["ServiceAccount", "pgn-serve"]["metadata"]["annotations"]["eks.amazonaws.com/role-arn"]
    assert role.endswith(":role/vision-read")
    ingress = objects["Ingress", "pgn-serve"]["spec"]
    assert ingress["rules"][0]["host"] == ingress["tls"][0]["hosts"][0] == "vision.example.net"


def test_a_run_of_ones_own_meets_no_other(written: Path) -> None:
    """Its volume, account and settings carry its suffix, and the Job refers to them by it."""
    objects = rendered(written, "k8s/training/flowers")
    names = {each["kind"]: each["metadata"]["name"] for each in objects}
    (job,) = (each for each in objects if each["kind"] == "Job")
    pod = job["spec"]["template"]["spec"]
    assert names["Job"] == names["PersistentVolumeClaim"] == names["ServiceAccount"] == "pgn-train-flowers"
    assert pod["serviceAccountName"] == names["ServiceAccount"]
    assert pod["priorityClassName"] == names["PriorityClass"]
    volumes = {each["name"]: each for each in pod["volumes"]}
    assert volumes["runs"]["persistentVolumeClaim"]["claimName"] == names["PersistentVolumeClaim"]
    maps = {each["metadata"]["name"]: each["data"] for each in objects if each["kind"] == "ConfigMap"}
    assert "run.toml" in maps[volumes["run"]["configMap"]["name"]]
    (source,) = (each for each in containers(pod) if each["name"] == "publish")
    assert maps[source["envFrom"][0]["configMapRef"]["name"]]["PGN_REMOTE"] == "s3://my-models/vision"


def test_every_path_of_the_page_is_there() -> None:
    """A folder that is renamed is renamed here, too."""
    own = {str(Path(name).parent) for name in FILES}
    named = set(re.findall(r"\bk8s/[a-z0-9/.-]*[a-z0-9]", PAGE)) - own - set(FILES)
    named |= {f"k8s/{each}" for each in re.findall(r"(?<![\w/])components/[a-z0-9-]+", PAGE)}
    assert sorted(each for each in named if not (ROOT / each).exists()) == []


@pytest.mark.parametrize("words", commands("pgn"), ids=" ".join)
def test_every_command_of_the_page_is_the_programs(words: list[str]) -> None:
    """An operator types what stands there."""
    command = typer.main.get_command(app)
    while (inner := getattr(command, "commands", {}).get(words[0])) is not None:
        command, words = inner, words[1:]
        if not words:
            break
    options = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    assert not hasattr(command, "commands"), f"pgn has no command {words[0]}"
    assert {word for word in words if word.startswith("--")} <= options


@pytest.mark.parametrize("name", sorted(set(re.findall(r"\bPGN_[A-Z_]+", PAGE))))
def test_every_setting_of_the_page_is_the_programs(name: str) -> None:
    """A misspelt variable would be set, and change nothing."""
    assert name.removeprefix("PGN_").lower() in Settings.model_fields
