"""TorchServe as a child process: Java started directly, without TorchServe's launcher, which forwards no signal."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import sys
from importlib.metadata import distribution
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any, Final

from pgn.archive import Archives, build_archives
from pgn.errors import DiskFull, SetupError
from pgn.serve.child import Child
from pgn.serve.java import find_java
from pgn.serve.ports import check_port
from pgn.serve.run_folder import RunFolder
from pgn.settings import Settings, TorchServeConfig, read_torchserve_config

GRACE_S: Final = 15.0  # it ends within 5 s, busy workers included
_HARMLESS: Final = re.compile(
    r"WARNING: sun\.reflect\.Reflection|(nvidia|xpu)-smi not available|Model server (started|stopped)"
)
_PORT_KEYS: Final = (
    "inference_address",
    "management_address",
    "metrics_address",
    "grpc_inference_port",
    "grpc_management_port",
)


class TorchServe:
    """One TorchServe: a run folder with archives, and the JVM that serves from it. A context manager.

    Making it checks everything that can be checked before a process is started.

    Args:
        settings: Where the model store and TorchServe's settings file are.
        archives: Built before; None builds them from the running package.
        to_console: Let TorchServe write to our standard output rather than to `log`.

    Attributes:
        settings: The same, with a folder for metrics in the run folder if they named none.

    Raises:
        SetupError: PortTaken, JavaMissing, DiskFull, or a fault in the settings.
    """

    def __init__(self, settings: Settings, *, archives: Archives | None = None, to_console: bool = False) -> None:
        self.config: TorchServeConfig = read_torchserve_config(settings.torchserve_config)
        for key, port in zip(_PORT_KEYS, self.config.ports, strict=True):
            check_port("127.0.0.1", port, f"change {key} in {self.config.path}")
        self._java = find_java()
        self._to_console = to_console
        self._child: Child | None = None
        self._read_to = 0
        self.run = RunFolder()
        self.log = self.run.path / "torchserve.log"
        self.settings = settings
        if settings.metrics_dir is None:  # fresh: what an earlier run counted is not added to this one's
            self.settings = settings.model_copy(update={"metrics_dir": self.run.fresh("metrics")})
        try:
            self.archives = archives or build_archives(self.run.path / "archives")
        except BaseException:
            self.run.remove()
            raise

    def __enter__(self) -> TorchServe:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def child(self) -> Child:
        """The running JVM."""
        if self._child is None:
            raise SetupError("TorchServe has not been started")
        return self._child

    def start(self) -> Child:
        """Start the JVM in fresh folders; what an earlier one left is removed.

        Raises:
            DiskFull: No room for its folders.
        """
        if self._child is not None:
            self._child.kill_group()
        self._read_to = 0
        try:
            tmp, cwd = self.run.fresh("tmp"), self.run.fresh("cwd", mode=0o500)
            with as_file(files("handlers") / "log4j2.xml") as log_settings, self.log.open("wb") as log:
                self._child = Child(
                    self._command(tmp, Path(shutil.copy(log_settings, self.run.path))),
                    env=self._environment(tmp),
                    cwd=cwd,  # empty and read-only: nothing in it can be taken for TorchServe's own
                    output=None if self._to_console else log,
                    keep=(self.run.lock,),
                )
        except OSError as error:
            if error.errno == errno.ENOSPC:
                raise DiskFull(f"no room for TorchServe's files in {self.run.path}") from error
            raise
        return self._child

    def close(self) -> None:
        """Stop the JVM and its workers, and remove the run folder."""
        if self._child is not None:
            self._child.stop(GRACE_S)
        self.run.remove()

    def news(self) -> str:
        """What the log has since the last call, apart from the lines of every start; TorchServe logs only trouble."""
        try:
            with self.log.open("rb") as log:
                log.seek(self._read_to)
                new = log.read()
        except FileNotFoundError:
            return ""
        self._read_to += len(new)
        lines = new.decode(errors="replace").splitlines()
        return "\n".join(line for line in lines if line.strip() and not _HARMLESS.match(line))

    def _command(self, tmp: Path, log_settings: Path) -> list[str | Path]:
        site = Path(str(distribution("torchserve").locate_file("")))
        return [
            self._java,
            f"-Dmodel_server_home={site}",
            f"-Djava.io.tmpdir={tmp}",
            f"-Dlog4j.configurationFile={log_settings.as_uri()}",
            *self.config.vmargs,
            *("-cp", site / "ts" / "frontend" / "*"),
            "org.pytorch.serve.ModelServer",
            *("--python", sys.executable),
            *("-f", self.config.path),
            *("-s", self.archives.folder.resolve()),
            *("-w", self.archives.folder.resolve()),
            "-ncs",
        ]

    def _environment(self, tmp: Path) -> dict[str, str]:
        # PYTHONPATH would come before the archives' own `pgn`; the others would beat config.properties.
        unwanted = {"PYTHONPATH", "LOG_LOCATION", "METRICS_LOCATION", "TEMP"}
        inherited = environment(self.settings).items()
        env = {name: value for name, value in inherited if name not in unwanted and not name.startswith("TS_")}
        env["TMPDIR"] = str(tmp)
        if shutil.which("kill", path=env.get("PATH")) is None:
            env["PATH"] = f"{self._make_kill()}{os.pathsep}{env.get('PATH', os.defpath)}"
        return env

    def _make_kill(self) -> Path:
        # TorchServe runs the program `kill` to unregister; slim images have it only inside the shell.
        folder = self.run.fresh("bin")
        program = folder / "kill"
        program.write_text('#!/bin/sh\nkill "$@"\n')
        program.chmod(0o700)
        return folder


def environment(settings: Settings) -> dict[str, str]:
    """The environment of a child that is to see the same settings, wherever it runs."""

    def written(value: Any) -> str:
        if isinstance(value, Path):
            return str(value.resolve())
        return json.dumps(value) if isinstance(value, tuple) else str(value)

    values = settings.model_dump().items()
    return dict(os.environ) | {f"PGN_{name.upper()}": written(value) for name, value in values if value is not None}
