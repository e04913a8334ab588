"""The training Jobs, by what they are given: their files mean something to the program, nothing is lost with a pod."""

from __future__ import annotations

import re
from fnmatch import fnmatch
from pathlib import PurePosixPath
from typing import Any, Final

import pytest
import typer.main

from k8s.check.combinations import K8S, Combination
from pgn.bundle import file_name
from pgn.cli import app
from tests.k8s.rendered import find
from training.compare.grid import read_grid
from training.config_file import gather_options

JOB: Final = Combination("training/job")
GRID: Final = Combination("training/grid")


def containers(where: Combination) -> dict[str, dict[str, Any]]:
    """Those of the Job's pod, by name."""
    pod = find(where, "Job")["spec"]["template"]["spec"]
    return {each["name"]: each for each in (*pod.get("initContainers", ()), *pod["containers"])}


def volume_at(where: Combination, container: str, path: str) -> str:
    """The volume in which a path of a container lies."""
    mounts = {each["mountPath"]: each["name"] for each in containers(where)[container]["volumeMounts"]}
    return next(
        mounts[str(parent)] for parent in (PurePosixPath(path), *PurePosixPath(path).parents) if str(parent) in mounts
    )


@pytest.mark.parametrize(
    ("where", "container"), [(JOB, "train"), (JOB, "publish"), (GRID, "cell")], ids=["train", "publish", "cell"]
)
def test_every_option_of_a_container_is_the_programs(where: Combination, container: str) -> None:
    """A Job that fails for a misspelt option fails after a node of GPUs was made for it."""
    words = " ".join(containers(where)[container]["args"]).split()
    words = words[words.index("pgn") + 1 :]
    command = typer.main.get_command(app).commands[words[0]]  # type: ignore[attr-defined]
    known = {option for parameter in command.params for option in parameter.opts}
    assert {word for word in words if word.startswith("--")} <= known


def test_the_run_is_one_that_pgn_train_takes() -> None:
    """`gather_options` refuses what is no option."""
    options = gather_options({}, file=K8S / "training/job/run.toml")
    assert set(options) >= {"dataset", "out", "cache", "data_dir"}


@pytest.mark.parametrize("option", ["out", "cache", "data_dir"])
def test_what_a_run_writes_outlives_its_pod(option: str) -> None:
    """A new pod resumes from the volume; the image's own folders cannot even be written."""
    written = str(gather_options({}, file=K8S / "training/job/run.toml")[option])
    volumes = {each["name"]: each for each in find(JOB, "Job")["spec"]["template"]["spec"]["volumes"]}
    assert "persistentVolumeClaim" in volumes[volume_at(JOB, "train", written)]


def test_what_is_published_is_the_bundle_and_nothing_else() -> None:
    """The folder also holds checkpoints and weights of methods that are not served."""
    out = PurePosixPath(gather_options({}, file=K8S / "training/job/run.toml")["out"])
    (pattern,) = re.findall(r"\S+\.safetensors", containers(JOB)["publish"]["args"][-1])
    assert fnmatch(str(out / file_name("cifar10", "0" * 64)), pattern)
    assert not fnmatch(str(out / "weights.safetensors"), pattern)


def test_training_and_publishing_have_rights_of_their_own() -> None:
    """Who decodes images from anywhere holds no keys of the bucket."""
    assert "s3-credentials" not in {each["name"] for each in containers(JOB)["train"]["volumeMounts"]}
    assert "s3-credentials" in {each["name"] for each in containers(JOB)["publish"]["volumeMounts"]}


def test_the_grid_has_a_completion_for_each_cell() -> None:
    """One too few and a cell is never run; one too many and the Job fails."""
    job = find(GRID, "Job")["spec"]
    assert job["completionMode"] == "Indexed"
    assert job["completions"] == len(read_grid(K8S / "training/grid/grid.toml").cells())


@pytest.mark.parametrize("where", [JOB, GRID], ids=str)
def test_an_evicted_pod_is_no_failure(where: Combination) -> None:
    """Else a week of preemptions uses up the few attempts that are there for real failures."""
    job = find(where, "Job")["spec"]
    assert {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]} in job[
        "podFailurePolicy"
    ]["rules"]
    assert job["podReplacementPolicy"] == "Failed", "two pods would write into one folder"
    assert job["template"]["spec"]["restartPolicy"] == "Never"


def test_torchrun_knows_its_options() -> None:
    """`gpu` stands for all GPUs that the container has."""
    from torch.distributed.run import get_args_parser

    args = containers(JOB)["train"]["args"]
    assert args[0] == "torchrun"
    parsed = get_args_parser().parse_args(args[1:])
    assert (parsed.nproc_per_node, parsed.standalone, parsed.module, parsed.training_script) == (
        "gpu",
        True,
        True,
        "pgn",
    )
    assert parsed.training_script_args[:2] == ["train", "--config"]
