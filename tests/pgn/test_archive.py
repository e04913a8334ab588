"""The archives hold this very package, and a worker runs what is in them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import pytest

import pgn
from pgn.archive import Archives, build_archives
from pgn.errors import DiskFull
from pgn.store.local import LocalStore
from tests.servers import ROOT, running_torchserve
from tests.toys import make_images


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> Archives:
    """One build for all tests of this file; read only."""
    return build_archives(tmp_path_factory.mktemp("archives"))


def manifest(archive: Path, folder: str) -> dict[str, dict[str, str]]:
    fields: dict[str, dict[str, str]] = json.loads(zipfile.ZipFile(archive).read(f"{folder}/MANIFEST.json"))
    return fields


def test_a_stages_archive_holds_its_handler_and_the_whole_package(archives: Archives) -> None:
    """The worker needs nothing of ours from the machine."""
    sources = {str(path.relative_to(ROOT)) for path in (ROOT / "pgn").rglob("*.py")}
    for stage, archive in zip(("pgn", "vit"), archives.models, strict=True):
        names = set(zipfile.ZipFile(archive).namelist())
        assert sources | {"pgn/py.typed", f"{stage}_stage.py"} <= names
        assert not [name for name in names if "__pycache__" in name or name.endswith(".pyc")]
        model = manifest(archive, "MAR-INF")["model"]
        assert (model["modelName"], model["modelVersion"]) == (stage, pgn.__version__)
        assert model["handler"] == f"{stage}_stage.py"


def test_the_workflow_chains_the_two_stages(archives: Archives) -> None:
    """Its specification is the one in handlers/."""
    assert manifest(archives.workflow, "WAR-INF")["workflow"]["workflowName"] == "pgn"
    packed = zipfile.ZipFile(archives.workflow).read("workflow.yaml")
    assert packed == (ROOT / "handlers" / "workflow.yaml").read_bytes()


def test_building_touches_nobody_elses_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """TorchServe's archivers would delete a folder `pgn` in the temporary folder, whosever it is."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (tmp_path / "pgn").mkdir()
    (tmp_path / "pgn" / "precious").touch()
    build_archives(tmp_path / "out")
    assert (tmp_path / "pgn" / "precious").exists()
    assert {path.name for path in tmp_path.iterdir()} == {"pgn", "out"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"pgn.mar", "vit.mar", "pgn.war"}


def test_an_installed_package_packs_itself(tmp_path: Path) -> None:
    """There need be no checkout, and the version is the running package's."""
    site = tmp_path / "site"
    for name in ("pgn", "handlers"):
        shutil.copytree(ROOT / name, site / name, ignore=shutil.ignore_patterns("__pycache__"))
    init = site / "pgn" / "__init__.py"
    init.write_text(init.read_text().replace(pgn.__version__, "7.7.7"))
    script = (
        f"from pathlib import Path; from pgn.archive import build_archives; build_archives(Path({str(tmp_path)!r}))"
    )
    subprocess.run(
        [sys.executable, "-c", script], check=True, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(site)}
    )
    assert manifest(tmp_path / "vit.mar", "MAR-INF")["model"]["modelVersion"] == "7.7.7"
    assert zipfile.ZipFile(tmp_path / "vit.mar").read("pgn/__init__.py") == init.read_bytes()


def test_a_full_disk_is_told_in_one_line(tmp_path: Path) -> None:
    """And no half-written archive is left to be served."""
    (tmp_path / ".pgn.mar.draft").symlink_to("/dev/full")
    with pytest.raises(DiskFull, match=str(tmp_path)):
        build_archives(tmp_path)
    assert not (tmp_path / "pgn.mar").exists()


def test_a_full_temporary_folder_is_told_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tree that cannot be copied fails with a line for each file, and without an error number."""

    def fail(*_: Any, **__: Any) -> None:
        raise shutil.Error([("a.py", "b.py", f"[Errno 28] {os.strerror(28)}: 'a.py' -> 'b.py'")])

    monkeypatch.setattr(shutil, "copytree", fail)
    with pytest.raises(DiskFull, match=f"for their parts in {tempfile.gettempdir()}"):
        build_archives(tmp_path)


def test_the_worker_runs_the_archives_own_package(
    archives: Archives, mixed_store: LocalStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the installed `pgn` nor one on PYTHONPATH takes its place."""
    other = tmp_path / "other" / "pgn"
    other.mkdir(parents=True)
    (other / "__init__.py").write_text("raise ImportError('the wrong package')")
    monkeypatch.setenv("PYTHONPATH", str(other.parent))
    marked = mark(archives, tmp_path / "marked")
    with running_torchserve(mixed_store.root, tmp_path, archives=marked) as server:
        assert server.predict(make_images(1)[0], "flowers")[1]["results"]
        error = server.predict(make_images(1)[0], "nobody")[1]["error"]
    assert error["message"] == "no data set 'nobody' is served, says the archive"


def mark(archives: Archives, out: Path) -> Archives:
    """The same archives with other words in one of the package's messages."""
    shutil.copytree(archives.folder, out)
    with zipfile.ZipFile(archives.folder / "pgn.mar") as source, zipfile.ZipFile(out / "pgn.mar", "w") as target:
        for name in source.namelist():
            content = source.read(name)
            if name == "pgn/index.py":
                assert content.count(b"is served{advice}") == 1
                content = content.replace(b"is served{advice}", b"is served, says the archive")
            target.writestr(name, content)
    return Archives(out)
