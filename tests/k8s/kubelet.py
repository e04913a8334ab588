"""One pod, kept as a kubelet keeps it: from its manifest, in boxes (boxes.py), without a cluster.

What it does as Kubernetes 1.33 does: init containers one after the other; a sidecar is waited for until its startup
probe has passed; liveness and readiness are asked from then on, with delays, periods, time-outs and thresholds as
written, at the pod's address, which is not loopback; who dies or is not live is started again, at once, then after 10,
20, 40 ... seconds; the pod is ready when all of its probed containers are. A deleted pod: preStop, SIGTERM to the main
containers, then to the sidecars from last to first, SIGKILL when the grace period is over; readiness is asked on.

What it does not: limits of CPU and memory. A volume that is full is full, where a kubelet would evict the pod. Volumes,
hooks and probes of a kind that it does not know are errors: nothing is passed over that a cluster would do.
"""

from __future__ import annotations

import signal
import socket
import struct
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from fcntl import ioctl
from pathlib import Path
from typing import Any, Final

from k8s.check.objects import Container, Pod, expand
from k8s.check.render import Object
from tests.k8s.boxes import Box, Image, Mount
from tests.k8s.inputs import Environment, Volumes
from tests.k8s.probes import Probe

_STEP_S: Final = 0.05
_BACKOFF_S: Final = 10.0
_LONGEST_BACKOFF_S: Final = 300.0


@dataclass(frozen=True)
class Event:
    """Something that happened to a container.

    Attributes:
        at_s: Seconds since the pod was started.
        container: Its name; empty for the pod itself.
        what: started, is up, ended 0, ready, unready, not live, SIGTERM, SIGKILL, deleted, gone.
    """

    at_s: float
    container: str
    what: str


def bring_up_loopback() -> None:
    """The network of a new namespace has an interface `lo`, which is down."""
    up, set_flags = 0x1, 0x8914
    with closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as any_socket:
        ioctl(any_socket, set_flags, struct.pack("16sh14x", b"lo", up))


class Kubelet:
    """Runs one pod until it is deleted.

    Args:
        pod: What to run.
        objects: Where its ConfigMaps and Secrets are.
        image: What all of its containers find in their root.
        folder: For volumes, roots and logs.
    """

    def __init__(self, pod: Pod, objects: Sequence[Object], image: Image, folder: Path) -> None:
        self._pod = pod
        self._folder = folder
        self._began = time.monotonic()
        self._lock = threading.Lock()
        self.events: list[Event] = []
        self.deleted = threading.Event()
        self.gone = threading.Event()
        volumes = Volumes(pod, objects, folder / "volumes")
        environment = Environment(pod, objects)
        self.keepers = {
            each.name: Keeper(each, image, environment.of(each, image), volumes.of(each), folder, self)
            for each in pod.containers
        }
        self._thread = threading.Thread(target=self._run, name="kubelet", daemon=True)

    def start(self) -> None:
        """Start the pod; returns at once."""
        self._thread.start()

    @property
    def is_ready(self) -> bool:
        """All containers with a readiness probe, and all that have none and run, are ready."""
        stay = [keeper for keeper in self.keepers.values() if keeper.container.role != "init"]
        return all(keeper.is_up and keeper.is_ready for keeper in stay)

    @property
    def grace_s(self) -> float:
        """How long containers may take to end."""
        return float(self._pod.spec.get("terminationGracePeriodSeconds", 30))

    def delete(self) -> None:
        """As `kubectl delete pod`; returns at once, `gone` is set when nothing of it is left."""
        self.note("", "deleted")
        self.deleted.set()

    def note(self, container: str, what: str) -> None:
        """Something happened."""
        with self._lock:
            self.events.append(Event(round(time.monotonic() - self._began, 2), container, what))

    def record(self) -> list[dict[str, Any]]:
        """All events, as plain values."""
        with self._lock:
            return [asdict(each) for each in self.events]

    # --- life ---

    def _run(self) -> None:
        try:
            if self._start_in_order():
                while not self.deleted.wait(_STEP_S):
                    for keeper in self._that_stay():
                        keeper.look_after()
            self._terminate()
        finally:
            for keeper in self.keepers.values():
                keeper.end()
            self.note("", "gone")
            self.gone.set()

    def _that_stay(self) -> list[Keeper]:
        return [keeper for keeper in self.keepers.values() if keeper.container.role != "init"]

    def _start_in_order(self) -> bool:
        """False if it was deleted meanwhile."""
        started: list[Keeper] = []
        for keeper in self.keepers.values():
            keeper.begin()
            started.append(keeper)
            while keeper.holds_up_the_next:
                if self.deleted.wait(_STEP_S):
                    return False
                for each in started:
                    each.look_after()
        return True

    def _terminate(self) -> None:
        until = time.monotonic() + self.grace_s
        stay = [keeper for keeper in self._that_stay() if keeper.runs]
        hooks = [threading.Thread(target=keeper.run_pre_stop, args=(until,)) for keeper in stay]
        for hook in hooks:  # of all containers at once; the signals have an order
            hook.start()
        for hook in hooks:
            hook.join()
        main = [keeper for keeper in stay if keeper.container.role == "main"]
        for keeper in main:
            keeper.terminate()
        for keeper in main:
            keeper.wait_end(until)
        for keeper in reversed([keeper for keeper in stay if keeper.container.role == "sidecar"]):
            keeper.terminate()
            keeper.wait_end(until)


class Keeper:
    """Keeps one container: starts it, asks its probes, starts it again."""

    def __init__(
        self,
        container: Container,
        image: Image,
        env: Mapping[str, str],
        mounts: Sequence[Mount],
        folder: Path,
        kubelet: Kubelet,
    ) -> None:
        self.container = container
        self._image = image
        self._env = env
        self._mounts = mounts
        self._folder = folder
        self._kubelet = kubelet
        self._box: Box | None = None
        self._probes: list[Probe] = []
        self._starts = 0
        self._start_at: float | None = None
        self._not_live = threading.Event()
        self.is_up = False
        self.is_ready = False
        self.has_ended_well = False

    @property
    def log(self) -> Path:
        """Its output, of all its runs."""
        return self._folder / f"{self.container.name}.log"

    @property
    def box(self) -> Box:
        """The present run."""
        assert self._box is not None, f"{self.container.name} has not been started"
        return self._box

    @property
    def runs(self) -> bool:
        return self._box is not None and self._box.exit_code is None

    @property
    def holds_up_the_next(self) -> bool:
        """Containers that come after it do not start yet."""
        waited_for = {"init": self.has_ended_well, "sidecar": self.is_up, "main": True}
        return not waited_for[self.container.role]

    def begin(self) -> None:
        """Start it."""
        spec, image = self.container.spec, self._image
        words = [*(spec.get("command") or image.entry_point), *spec.get("args", ())]
        self._starts += 1
        self._start_at = None
        self._not_live.clear()
        self.is_up = self.is_ready = False
        root = self._folder / "roots" / f"{self.container.name}-{self._starts}"
        root.mkdir(parents=True)
        command = [expand(word, self._env) for word in words]
        self._box = Box(root, image, command, self._env, self._mounts, self.log)
        self._note("started")
        if self.container.role == "init":
            return
        if (startup := self.container.probes.get("startup")) is not None:
            self._ask("startup", startup, self._startup_answered)
        else:
            self._has_started()

    def look_after(self) -> None:
        """Start it again if it has to be; to be called often."""
        if self._start_at is not None:
            if time.monotonic() >= self._start_at:
                self.begin()
            return
        if self.has_ended_well:
            return
        if self._not_live.is_set() and self.runs:
            self.terminate()
            self.wait_end(time.monotonic() + self._kubelet.grace_s)
        if (status := self.box.exit_code) is None:
            return
        self._stop_probes()
        self.is_up = self.is_ready = False
        self._note(f"ended {status}")
        if self.container.role == "init" and status == 0:
            self.has_ended_well = True
            return
        pause = min(_BACKOFF_S * 2 ** (self._starts - 2), _LONGEST_BACKOFF_S) if self._starts > 1 else 0.0
        self._start_at = time.monotonic() + pause

    def run_pre_stop(self, until: float) -> None:
        """What is to be done before SIGTERM."""
        for probe in self._probes:
            if probe.kind != "readiness":
                probe.stop()
        hook = self.container.spec.get("lifecycle", {}).get("preStop", {})
        left = max(until - time.monotonic(), 0)
        if "exec" in hook:
            self.box.run(hook["exec"]["command"], left)
        elif "sleep" in hook:
            time.sleep(min(hook["sleep"]["seconds"], left))
        elif hook:
            raise ValueError(f"{self.container.name}: a preStop hook of {sorted(hook)} cannot be rehearsed")

    def terminate(self) -> None:
        """SIGTERM."""
        self._note("SIGTERM")
        self.box.signal(signal.SIGTERM)

    def wait_end(self, until: float) -> None:
        """Wait for its end, and bring it about when the time is over."""
        while self.runs and time.monotonic() < until:
            time.sleep(_STEP_S)
        if self.runs:
            self._note("SIGKILL")
            self.box.end()
        if self._kubelet.deleted.is_set():
            self._stop_probes()
            self._note(f"ended {self.box.exit_code}")

    def end(self) -> None:
        """Nothing of it is left."""
        self._stop_probes()
        if self._box is not None:
            self._box.end()

    # --- probes ---

    def _ask(self, kind: str, spec: dict[str, Any], answered: Callable[[bool], None]) -> None:
        probe = Probe(kind, spec, self.container, self.box, answered)
        self._probes.append(probe)
        probe.start()

    def _startup_answered(self, succeeded: bool) -> None:
        if succeeded:
            self._has_started()
        else:
            self._note("not up in time")
            self._not_live.set()

    def _has_started(self) -> None:
        self._note("is up")
        probes = self.container.probes
        if "liveness" in probes:
            self._ask("liveness", probes["liveness"], self._liveness_answered)
        if "readiness" in probes:
            self._ask("readiness", probes["readiness"], self._readiness_answered)
        else:
            self.is_ready = True
        self.is_up = True

    def _liveness_answered(self, succeeded: bool) -> None:
        if not succeeded:
            self._note("not live")
            self._not_live.set()

    def _readiness_answered(self, succeeded: bool) -> None:
        if succeeded != self.is_ready:
            self._note("ready" if succeeded else "unready")
            self.is_ready = succeeded

    def _stop_probes(self) -> None:
        for probe in self._probes:
            probe.stop()
        self._probes.clear()

    def _note(self, what: str) -> None:
        self._kubelet.note(self.container.name, what)
