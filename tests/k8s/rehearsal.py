"""A pod that runs in namespaces of its own, told what to do from outside.

`rehearsed()` starts `inside.py` as the first process of new namespaces, where a `Kubelet` keeps the pod; a `Rehearsal`
is what a test holds of it. The two talk in lines of JSON.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from base64 import b64decode, b64encode
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from k8s.check.combinations import ROOT
from k8s.check.render import Object
from tests.k8s.boxes import Image, pod_namespaces
from tests.servers import wait_until

# Enough of tini for a machine without it: passes signals on, ends as its child ends.
_TINI: Final = """#!/bin/sh
shift
"$@" &
child=$!
trap 'kill -TERM "$child"' TERM
while :; do
    wait "$child"
    status=$?
    kill -0 "$child" 2>/dev/null || exit "$status"
done
"""


def image_of(dockerfile: Path) -> Image:
    """The image of a Dockerfile's last stage; this checkout and its environment stand for what other stages build."""
    text = dockerfile.read_text().replace("\\\n", " ")
    lines = [line.strip() for line in text[text.rindex("\nFROM ") :].splitlines() if not line.startswith("#")]
    words = [line.split(maxsplit=1) for line in lines if line]
    said = {name: rest for name, rest in words if name in ("WORKDIR", "ENTRYPOINT")}
    env = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
    for rest in (rest for name, rest in words if name == "ENV"):
        for pair in shlex.split(rest):
            name, _, value = pair.partition("=")
            env[name] = re.sub(r"\$\{(\w+)\}", lambda match: env.get(match[1], ""), value)
    folders = {str(ROOT): ROOT}  # the environment of this checkout finds the project there
    if not sys.base_prefix.startswith("/usr"):
        folders[sys.base_prefix] = Path(sys.base_prefix)
    for rest in (rest for name, rest in words if name == "COPY"):
        source, target = rest.split()[-2:]
        # What other stages have built is the environment that runs these tests.
        here = Path(sys.prefix) if "--from=" in rest else ROOT / source
        path = Path(said["WORKDIR"], "" if target == "./" else target)
        folders[str(path / here.name if target == "./" else path)] = here
    entry_point = json.loads(said["ENTRYPOINT"])
    assert entry_point[0] == "tini", "the rehearsal stands in for tini alone"
    return Image(folders, {"/stand-in/tini": _TINI}, env, ("/stand-in/tini", *entry_point[1:]), said["WORKDIR"])


@dataclass
class Rehearsal:
    """A pod that runs; its methods ask the process inside."""

    _process: subprocess.Popen[str]
    folder: Path

    def _do(self, name: str, **arguments: Any) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps({"name": name, "arguments": arguments}) + "\n")
            self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise AssertionError(f"the rehearsal has ended: {(self.folder / 'rehearsal.log').read_text()}")
        return json.loads(line)

    def events(self, container: str | None = None) -> list[str]:
        """What happened so far, `container what` each; of one container, what happened to it."""
        found = self._do("events")
        if container is not None:
            return [each["what"] for each in found if each["container"] == container]
        return [f"{each['container']} {each['what']}".strip() for each in found]

    def is_ready(self) -> bool:
        return bool(self._do("is_ready"))

    def is_gone(self) -> bool:
        return bool(self._do("is_gone"))

    def wait_ready(self, timeout_s: float = 120) -> None:
        """Return once the pod is ready; the logs of its containers are shown if it does not come to that."""
        self._wait(self.is_ready, "the pod to be ready", timeout_s)

    def wait_for(self, event: str, timeout_s: float = 120) -> None:
        """Return once that has happened."""
        self._wait(lambda: event in self.events(), f"the event {event!r}", timeout_s)

    def _wait(self, condition: Any, what: str, timeout_s: float) -> None:
        try:
            wait_until(condition, what, timeout_s)
        except AssertionError:
            print(*self.events(), sep="\n")
            for log in sorted(self.folder.glob("*.log")):
                print(f"--- {log.name}\n{log.read_text()[-3000:]}")
            raise

    def run(self, container: str, *command: str) -> int:
        """The exit code of a command that runs in a container."""
        return int(self._do("run", container=container, command=command))

    def kill(self, container: str, number: int = signal.SIGKILL) -> None:
        """A signal to a container's first process."""
        self._do("kill", container=container, number=number)

    def ask(self, path: str, body: bytes | None = None, port: int = 8000) -> tuple[int, bytes]:
        """One request to the pod: GET, or POST with a body; status 0 if nobody answered."""
        answer = self._do("ask", path=path, body=body and b64encode(body).decode(), port=port)
        return answer["status"], b64decode(answer["body"])

    def begin_load(self, questions: Sequence[tuple[str, bytes]], clients: int) -> None:
        """Ask data sets about images, all the time; the first answers are what later ones have to be."""
        encoded = [(dataset, b64encode(image).decode()) for dataset, image in questions]
        self._do("begin_load", questions=encoded, clients=clients)

    def end_load(self) -> dict[str, Any]:
        """`statuses`, by number as text, and what is `wrong`."""
        return dict(self._do("end_load"))

    def answered(self) -> int:
        """Requests of the load that were answered with 200."""
        return int(self._do("answered"))

    def delete(self) -> None:
        self._do("delete")


@contextmanager
def rehearsed(objects: Sequence[Object], folder: Path, image: Image) -> Iterator[Rehearsal]:
    """The pod of the only workload among the objects, started in namespaces of its own; nothing of it is left after."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "objects.json").write_text(json.dumps(list(objects)))
    plain = asdict(image) | {"folders": {path: str(source) for path, source in image.folders.items()}}
    (folder / "image.json").write_text(json.dumps(plain))
    command = pod_namespaces([sys.executable, "-m", "tests.k8s.inside", str(folder)])
    with (folder / "rehearsal.log").open("w") as log:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            cwd=ROOT,
            env=dict(os.environ),
        )
        try:
            yield Rehearsal(process, folder)
        finally:
            process.kill()  # with it goes the first process in the namespaces, and with that all others
            with suppress(BrokenPipeError):
                process.communicate()
