"""Probes as a kubelet asks them: with delays, periods, time-outs and thresholds as written, at the pod's address."""

from __future__ import annotations

import http.client
import threading
import time
from collections.abc import Callable
from contextlib import closing
from typing import Any, Final

from k8s.check.objects import Container
from tests.k8s.boxes import Box

ADDRESS: Final = "127.0.0.2"
"""The pod's own: it reaches who listens on all addresses, and not who listens on 127.0.0.1."""


class Probe:
    """Asks one probe of one run of a container, in a thread of its own.

    Args:
        answered: Called once a threshold is reached, and then with each answer that confirms it.
    """

    def __init__(
        self, kind: str, spec: dict[str, Any], container: Container, box: Box, answered: Callable[[bool], None]
    ) -> None:
        self.kind = kind
        self._spec = spec
        self._container = container
        self._box = box
        self._answered = answered
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"{container.name} {kind}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Ask no more; what is being asked is not heard any more."""
        self._stop.set()

    def _run(self) -> None:
        spec = self._spec
        thresholds = {True: spec.get("successThreshold", 1), False: spec.get("failureThreshold", 3)}
        last, count = None, 0
        pause = spec.get("initialDelaySeconds", 0)
        while not self._stop.wait(pause):
            began = time.monotonic()
            result = self._is_answered(spec.get("timeoutSeconds", 1))
            count = count + 1 if result == last else 1
            last = result
            if self._stop.is_set():
                return
            if count >= thresholds[result]:
                self._answered(result)
                if self.kind == "startup" or (self.kind == "liveness" and not result):
                    return
            pause = max(spec.get("periodSeconds", 10) - (time.monotonic() - began), 0)

    def _is_answered(self, timeout_s: float) -> bool:
        if "exec" in self._spec:
            return self._box.run(self._spec["exec"]["command"], timeout_s) == 0
        for how in ("httpGet", "tcpSocket"):
            if how in self._spec:
                port = self._spec[how]["port"]
                number = self._container.ports[port] if isinstance(port, str) else port
                return _get(number, self._spec[how].get("path"), timeout_s)
        raise ValueError(f"{self._container.name}: its {self.kind} probe cannot be rehearsed")


def _get(port: int, path: str | None, timeout_s: float) -> bool:
    """Whether the pod's port answers well; without a path, whether it takes connections."""
    try:
        with closing(http.client.HTTPConnection(ADDRESS, port, timeout=timeout_s)) as connection:
            if path is None:
                connection.connect()
                return True
            connection.request("GET", path, headers={"User-Agent": "kube-probe/1.33"})
            return 200 <= connection.getresponse().status < 400
    except (OSError, http.client.HTTPException):
        return False
