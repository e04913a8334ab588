"""TorchServe's archives: one for each stage, with this very `pgn` package inside, and the workflow that chains them.

A worker runs the archive's own `pgn`, so two versions may run on one machine, and what is served is what was packed.
Weights are in no archive: stages read the model store.
"""

from __future__ import annotations

import errno
import glob
import os
import shutil
import tempfile
import warnings
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path
from typing import Final

import pgn
from pgn.errors import DiskFull

WORKFLOW: Final = "pgn"
STAGES: Final = ("pgn", "vit")


@dataclass(frozen=True)
class Archives:
    """The archives of one build; all lie in `folder`, which serves as TorchServe's model and workflow store."""

    folder: Path

    @property
    def models(self) -> tuple[Path, ...]:
        """`pgn.mar` and `vit.mar`."""
        return tuple(self.folder / f"{stage}.mar" for stage in STAGES)

    @property
    def workflow(self) -> Path:
        """`pgn.war`."""
        return self.folder / f"{WORKFLOW}.war"


def build_archives(out: Path) -> Archives:
    """Build `pgn.mar`, `vit.mar` and `pgn.war` in `out`, each put there whole.

    Raises:
        DiskFull: No room in `out` or in the temporary folder.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        with _scratch() as scratch, as_file(files("handlers")) as handlers, as_file(files("pgn")) as package:
            source, built = scratch / "source", scratch / "built"
            built.mkdir()
            shutil.copytree(package, source / "pgn", ignore=shutil.ignore_patterns("__pycache__", "*.py[co]"))
            for stage in STAGES:
                _pack_model(stage, handlers / f"{stage}_stage.py", source, built)
            _pack_workflow(handlers, built)
            for archive in built.iterdir():
                _put(archive, out / archive.name)
    except OSError as error:
        # shutil.Error, of a whole tree, has no errno: it holds a line for each file.
        if error.errno == errno.ENOSPC or os.strerror(errno.ENOSPC) in str(error):
            where = f"{out}, or for their parts in {tempfile.gettempdir()}"
            raise DiskFull(f"no room to build the archives in {where}") from error
        raise
    return Archives(out)


@contextmanager
def _scratch() -> Iterator[Path]:
    # Both archivers empty and fill <temporary folder>/<model name>, whosever that is: they get a folder of their own.
    before = tempfile.tempdir
    with tempfile.TemporaryDirectory(prefix="pgn-archive-") as folder:
        tempfile.tempdir = folder
        try:
            yield Path(folder)
        finally:
            tempfile.tempdir = before


def _pack_model(stage: str, handler: Path, source: Path, out: Path) -> None:
    with _quiet_import():
        from model_archiver import ModelArchiverConfig
        from model_archiver.model_packaging import package_model
        from model_archiver.model_packaging_utils import ModelExportUtils
    config = ModelArchiverConfig(
        model_name=stage,
        handler=str(handler),
        version=pgn.__version__,
        extra_files=glob.escape(str(source)),  # the contents of the folder, so that `pgn/` arrives as a package
        export_path=str(out),
    )
    package_model(config, manifest=ModelExportUtils.generate_manifest_json(config))


def _pack_workflow(handlers: Path, out: Path) -> None:
    with _quiet_import():
        from workflow_archiver.workflow_packaging import package_workflow
        from workflow_archiver.workflow_packaging_utils import WorkflowExportUtils
    options = Namespace(
        workflow_name=WORKFLOW,
        spec_file=str(handlers / "workflow.yaml"),
        handler=str(handlers / "workflow_handler.py"),
        extra_files=None,
        export_path=str(out),
        force=False,
    )
    package_workflow(options, manifest=WorkflowExportUtils.generate_manifest_json(options))


@contextmanager
def _quiet_import() -> Iterator[None]:
    # Both archivers leave their version file open when they are imported.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        yield


def _put(source: Path, target: Path) -> None:
    draft = target.with_name(f".{target.name}.draft")
    try:
        shutil.copyfile(source, draft)
        draft.replace(target)
    finally:
        draft.unlink(missing_ok=True)
