"""A container as a runtime makes it, out of Linux namespaces: no Docker, no root.

A box has its own processes (its program is process 1, behind the image's entry point), its own mounts (a root that
cannot be written to, volumes where the pod wants them) and its own user (1000, without any capability). Boxes of a pod
share the network, that of whoever starts them: start them inside `pod_namespaces()`.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Final

import psutil

USER: Final = 1000
_OLD_ROOT: Final = "old-root"
_SYSTEM: Final = ("bin", "sbin", "lib", "lib32", "lib64", "usr")
# Not the whole of it: volumes may want a place beside them.
_ETC: Final = ("alternatives", "group", "hosts", "ld.so.cache", "localtime", "nsswitch.conf", "passwd", "ssl")
_DEVICES: Final = ("null", "zero", "full", "random", "urandom", "tty")
# Processes, mounts, network and semaphores of a pod; whoever calls is root in there, and nobody outside. The end of the
# first process ends all others.
_POD: Final = ("unshare", "--user", "--map-root-user", "--mount", "--net", "--ipc", "--uts", "--pid", "--fork")
# As `unshare --mount --pid --fork --kill-child`, whose releases up to 2.38 lose by which signal their child has ended.
_SPLIT: Final = """
import ctypes, os, sys
libc, new_mounts, new_processes, on_parents_death = ctypes.CDLL(None, use_errno=True), 0x20000, 0x20000000, 1
if libc.unshare(new_mounts | new_processes):
    raise OSError(ctypes.get_errno(), "unshare")
if (child := os.fork()) == 0:
    libc.prctl(on_parents_death, 9)
    os.execv(sys.argv[1], sys.argv[1:])
status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
sys.exit(status if status >= 0 else 128 - status)
"""
_TOOLS: Final = ("unshare", "nsenter", "mount", "umount", "pivot_root", "setpriv")


def pod_namespaces(command: Sequence[str]) -> list[str]:
    """The command, to be run as the first process of a pod's namespaces."""
    return [*_POD, "--kill-child=KILL", "--mount-proc", "--", *command]


@cache
def why_not() -> str | None:
    """Why this machine makes no boxes; None if it does."""
    if missing := [name for name in _TOOLS if not _tool(name)]:
        return f"no {', '.join(missing)} on PATH: apt-get install util-linux"
    tried = subprocess.run(
        pod_namespaces(["sh", "-c", "mount -t tmpfs none /mnt && unshare --pid --mount-proc --fork --user true"]),
        capture_output=True,
        text=True,
        timeout=30,
    )
    return f"no user namespaces: {tried.stderr.strip()}" if tried.returncode else None


def _tool(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin")


@dataclass(frozen=True)
class Image:
    """What containers find in their root, made of folders of this machine; nobody can write there.

    Attributes:
        folders: Path in the image -> folder or file of this machine.
        texts: Path in the image -> content of a small file.
        env: Variables that the image sets.
        entry_point: Stands before the arguments of a container without a `command`.
        working_folder: Where programs start.
    """

    folders: Mapping[str, Path] = field(default_factory=dict)
    texts: Mapping[str, str] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)
    entry_point: tuple[str, ...] = ()
    working_folder: str = "/"


@dataclass(frozen=True)
class Mount:
    """A folder of the pod, seen at `path`."""

    source: Path
    path: str
    read_only: bool = False


class Box:
    """A running container.

    Args:
        folder: An empty one, for the making of its root.
        image: Its root.
        command: Program and arguments.
        env: Its whole environment.
        mounts: Volumes.
        log: Gets its output.
    """

    def __init__(
        self,
        folder: Path,
        image: Image,
        command: Sequence[str],
        env: Mapping[str, str],
        mounts: Sequence[Mount],
        log: Path,
    ) -> None:
        self._env = dict(env)
        script = _make_root(folder, image, mounts) + _become_user(image.working_folder, command)
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-ISc", _SPLIT, "/bin/sh", "-ec", script],
                env=self._env,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        while not self._runs_its_program() and self.exit_code is None:
            time.sleep(0.01)  # as a runtime, which says that a container has started once it has

    def _runs_its_program(self) -> bool:
        if (first := self.first) is None:
            return False
        try:
            status = Path(f"/proc/{first.pid}/status").read_text()
        except OSError:
            return False
        return "NoNewPrivs:\t1" in status and not status.startswith("Name:\tsetpriv")

    @property
    def exit_code(self) -> int | None:
        """None while it runs; 128 and the signal's number if a signal ended it."""
        return self._process.poll()

    @property
    def first(self) -> psutil.Process | None:
        """Its process 1."""
        try:
            return next(iter(psutil.Process(self._process.pid).children()), None)
        except psutil.NoSuchProcess:
            return None

    def signal(self, number: int) -> None:
        """To process 1, as a runtime does; without a handler of its own it heeds SIGKILL alone."""
        if (first := self.first) is not None:
            try:
                first.send_signal(number)
            except psutil.NoSuchProcess:
                return

    def run(self, command: Sequence[str], timeout_s: float) -> int | None:
        """Run a command inside, as an exec probe does; its exit code, or None if it took too long."""
        if (first := self.first) is None:
            return 1
        enter = [
            _tool("nsenter") or "",
            "--target",
            str(first.pid),
            "--user",
            "--preserve-credentials",
            "--mount",
            "--pid",
        ]
        with subprocess.Popen(
            [*enter, "--", *command],
            env=self._env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ) as process:
            try:
                return process.wait(timeout_s)
            except subprocess.TimeoutExpired:
                process.kill()
                return None

    def end(self) -> None:
        """Kill whatever is left of it."""
        self.signal(signal.SIGKILL)
        self._process.wait()


def _make_root(folder: Path, image: Image, mounts: Sequence[Mount]) -> str:
    """Shell lines that make a root in `folder` and enter it."""
    mount, umount, pivot = (_tool(name) or "" for name in ("mount", "umount", "pivot_root"))
    lines = [f"{mount} --make-rprivate /", f"{mount} -t tmpfs -o mode=755 none {folder}", f"cd {folder}"]

    def bind(source: Path | str, path: str, read_only: bool) -> None:
        target = shlex.quote(f".{path}")
        if Path(source).is_dir():
            lines.append(f"mkdir -p {target}")
        else:
            lines.append(f"mkdir -p $(dirname {target}) && touch {target}")
        lines.append(f"{mount} --rbind {shlex.quote(str(source))} {target}")
        if read_only:
            lines.append(f"{mount} -o remount,bind,ro {target}")

    for name in _SYSTEM:
        path = Path("/", name)
        if path.is_symlink():
            lines.append(f"ln -s {path.readlink()} {name}")
        elif path.is_dir():
            bind(path, str(path), read_only=True)
    for name in _ETC:
        if (path := Path("/etc", name)).exists():
            bind(path.resolve(), str(path), read_only=True)
    lines += [f"mkdir -p proc tmp {_OLD_ROOT} dev/shm", "chmod 1777 tmp", f"{mount} -t proc none proc"]
    for name in _DEVICES:
        lines.append(f"touch dev/{name} && {mount} --bind /dev/{name} dev/{name}")
    lines.append(f"{mount} -t tmpfs -o size=64m,mode=1777 none dev/shm")  # what runtimes give
    for place, source in image.folders.items():
        bind(source, place, read_only=True)
    for place, text in image.texts.items():
        made = folder.with_name(f"{folder.name}{place.replace('/', '-')}")
        made.write_text(text)
        made.chmod(0o755)
        bind(made, place, read_only=True)
    for each in sorted(mounts, key=lambda mount: mount.path):  # what lies in another comes after it
        bind(each.source, each.path, each.read_only)
    lines += [
        f"{mount} -o remount,bind,ro {folder}",  # not the file system, which refuses its options a second time
        f"{pivot} . {_OLD_ROOT}",
        f"{umount} --lazy /{_OLD_ROOT}",
    ]
    return "\n".join(lines) + "\n"


def _become_user(working_folder: str, command: Sequence[str]) -> str:
    unshare, setpriv = (_tool(name) or "" for name in ("unshare", "setpriv"))
    program = shlex.join(command)
    user = f"{unshare} --user --map-user={USER} --map-group={USER}"
    return f"cd {shlex.quote(working_folder)}\nexec {user} {setpriv} --no-new-privs -- {program}\n"


def python_image(**changes: object) -> Image:
    """An image with this Python alone."""
    folders = {sys.base_prefix: Path(sys.base_prefix)} if not sys.base_prefix.startswith("/usr") else {}
    return Image(folders=folders, env={"PATH": f"{sys.base_prefix}/bin:/usr/bin:/bin"}, **changes)  # type: ignore[arg-type]
