"""kubectl as a program, with a limit of time on every call; errors are its own words."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from k8s.check.render import Object, kubectl

LIMIT_S = 60.0


class Refused(Exception):
    """kubectl ended with an error; the message is what it wrote."""


@dataclass(frozen=True)
class Kubectl:
    """A cluster.

    Args:
        kubeconfig: Where it is and who asks.
        namespace: For calls about objects of a namespace.
    """

    kubeconfig: Path
    namespace: str = "default"

    def run(self, *words: str, given: str | None = None, limit_s: float = LIMIT_S) -> str:
        """What a command prints.

        Raises:
            Refused: It failed.
        """
        command = [kubectl(), f"--kubeconfig={self.kubeconfig}", f"--namespace={self.namespace}", *words]
        run = subprocess.run(command, input=given, capture_output=True, text=True, timeout=limit_s, check=False)
        if run.returncode:
            raise Refused(run.stderr.strip())
        return run.stdout

    def apply(self, *objects: Object, dry_run: bool = False) -> None:
        """Apply as the server's own merge; a field that the server does not know is an error, not a warning."""
        text = json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)})
        self.run(*apply_words(dry_run), given=text)

    def get(self, kind: str, name: str) -> Object:
        """One object."""
        return dict(json.loads(self.run("get", kind, name, "--output=json")))

    def find(self, kind: str, selector: str = "") -> list[Object]:
        """All objects of a kind that a label selector fits, oldest first."""
        words = ("get", kind, f"--selector={selector}", "--sort-by=.metadata.creationTimestamp", "--output=json")
        return list(json.loads(self.run(*words))["items"])

    def patch(self, kind: str, name: str, change: dict[str, Any], *, subresource: str = "") -> None:
        """Merge a change into a built-in object, lists by their keys, or into a part that has its own rights."""
        words = ["patch", kind, name, "--type=strategic", f"--patch={json.dumps(change)}"]
        self.run(*words, *([f"--subresource={subresource}"] if subresource else []))

    def evict(self, pod: str) -> None:
        """Ask for the end of a pod as `kubectl drain` does: budgets are heeded.

        Raises:
            Refused: A budget does not let it go.
        """
        eviction = {
            "apiVersion": "policy/v1",
            "kind": "Eviction",
            "metadata": {"name": pod, "namespace": self.namespace},
        }
        path = f"/api/v1/namespaces/{self.namespace}/pods/{pod}/eviction"
        self.run("create", f"--raw={path}", "--filename=-", given=json.dumps(eviction))

    def served(self) -> set[tuple[str, str]]:
        """Every (apiVersion, kind) that the server has."""
        lines = self.run("api-resources", "--no-headers", "--output=wide").splitlines()
        return set(map(parse_resource, lines))


def apply_words(dry_run: bool) -> Sequence[str]:
    """The command line of `apply`."""
    words = ("apply", "--server-side", "--force-conflicts", "--validate=strict", "--filename=-")
    return (*words, "--dry-run=server") if dry_run else words


def parse_resource(line: str) -> tuple[str, str]:
    """(apiVersion, kind) of a line of `kubectl api-resources`; the column of short names may be empty."""
    before, _, after = line.partition(" true " if " true " in line else " false ")
    return before.split()[-1], after.split()[0]


def wait_for(condition: Callable[[], bool], what: str, limit_s: float = LIMIT_S) -> None:
    """Return once `condition()` holds; a cluster is asked twice a second."""
    end = time.monotonic() + limit_s
    while not condition():
        if time.monotonic() > end:
            raise AssertionError(f"waited {limit_s:g} s in vain for {what}")
        time.sleep(0.5)
