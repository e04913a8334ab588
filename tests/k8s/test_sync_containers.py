"""The two containers that follow a bucket, by their own commands and probes, against a real S3 server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest

from k8s.check.combinations import Combination
from pgn.index import read_index
from pgn.settings import Settings
from pgn.store.backbones import publish_backbone
from pgn.store.publish import publish_all
from pgn.store.remote import open_remote
from tests.k8s.rendered import find
from tests.s3 import BUCKET, RunningS3
from tests.toys import make_store

Run = Callable[[list[str]], "subprocess.CompletedProcess[str]"]

INSIDE: Final = Combination("overlays/gpu", ("s3",))


def container(name: str) -> dict[str, Any]:
    """One of the rendered pod's containers."""
    pod = find(INSIDE, "Deployment")["spec"]["template"]["spec"]
    (found,) = (each for each in pod["initContainers"] if each["name"] == name)
    return dict(found)


@pytest.fixture
def settings(s3: RunningS3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """A pod's empty store, and a prefix that nobody has used."""
    for name, value in s3.environment("rw").items():
        monkeypatch.setenv(name, value)
    (tmp_path / "store").mkdir()
    return Settings(store=tmp_path / "store", remote=f"s3://{BUCKET}/{uuid.uuid4().hex[:12]}")


@pytest.fixture
def run(s3: RunningS3, settings: Settings, tmp_path: Path) -> Run:
    """Runs a container's command as the image would, with the right to read."""

    def start(command: list[str]) -> subprocess.CompletedProcess[str]:
        env = {
            **s3.environment("ro"),
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PGN_STORE": str(settings.store),
            "PGN_REMOTE": str(settings.remote),
            "TMPDIR": str(tmp_path),
        }
        return subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)

    return start


@pytest.fixture
def published(settings: Settings, tmp_path: Path) -> Path:
    """A store of two data sets, in the bucket."""
    toys = make_store(tmp_path / "toys", ["digits", "letters"])
    remote = open_remote(settings)
    publish_backbone(remote.bucket, toys.root / "backbones" / "toy", lambda _: None)
    list(publish_all(toys.root, remote))
    return toys.root


def test_a_damaged_bundle_keeps_no_pod_from_starting(settings: Settings, published: Path, run: Run) -> None:
    """`pgn sync` ends with 1 then; a container that did would hold up every new pod, with all other data sets."""
    (bad,) = (published / "datasets/digits").glob("*.safetensors")
    open_remote(settings).bucket.overwrite(f"datasets/digits/{bad.name}", b"damaged")
    done = run(container("sync")["args"])
    assert "digits" in done.stderr
    assert done.returncode == 0
    assert list(read_index(settings.store).datasets) == ["letters"]


def test_without_an_index_no_pod_starts(settings: Settings, run: Run) -> None:
    """A wrong prefix must not become a service that serves nothing."""
    done = run(container("sync")["args"])
    assert done.returncode != 0
    assert f"{settings.remote}/index.json does not exist" in done.stderr.splitlines()[-1]


def test_the_probe_tells_a_sync_that_looks_from_one_that_hangs(settings: Settings, published: Path, run: Run) -> None:
    """Looking counts, and not whether the bucket answered: a restart brings no bucket back."""
    probe = container("sync-watch")["livenessProbe"]["exec"]["command"]
    assert run(probe).returncode != 0, "it has never looked"
    run(container("sync")["args"])
    assert run(probe).returncode == 0
    state = json.loads((settings.store / "sync.json").read_text())
    old = state | {"last_attempt": time.time() - 3600, "error": None}
    (settings.store / "sync.json").write_text(json.dumps(old))
    assert run(probe).returncode == 1
    (settings.store / "sync.json").write_text(json.dumps(state | {"error": "the bucket is away"}))
    assert run(probe).returncode == 0
