"""The first process in a pod's namespaces: a kubelet that is told, by lines of JSON, what to do (rehearsal.py)."""

from __future__ import annotations

import http.client
import json
import sys
from base64 import b64decode, b64encode
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from k8s.check.objects import pods
from tests.k8s.boxes import Image
from tests.k8s.kubelet import Kubelet, bring_up_loopback
from tests.k8s.probes import ADDRESS


class Inside:
    """What a `Rehearsal` asks for, method by method."""

    def __init__(self, folder: Path) -> None:
        objects = json.loads((folder / "objects.json").read_text())
        plain = json.loads((folder / "image.json").read_text())
        plain["folders"] = {path: Path(source) for path, source in plain["folders"].items()}
        (pod,) = pods(objects)
        bring_up_loopback()
        self._kubelet = Kubelet(pod, objects, Image(**plain), folder)
        self._load: Any = None
        self._kubelet.start()

    def events(self) -> list[dict[str, Any]]:
        return self._kubelet.record()

    def is_ready(self) -> bool:
        return self._kubelet.is_ready

    def is_gone(self) -> bool:
        return self._kubelet.gone.is_set()

    def run(self, container: str, command: Sequence[str]) -> int:
        status = self._kubelet.keepers[container].box.run(command, timeout_s=30)
        return -1 if status is None else status

    def kill(self, container: str, number: int) -> None:
        self._kubelet.keepers[container].box.signal(number)

    def delete(self) -> None:
        self._kubelet.delete()

    def ask(self, path: str, body: str | None, port: int) -> dict[str, Any]:
        content = None if body is None else b64decode(body)
        with closing(http.client.HTTPConnection(ADDRESS, port, timeout=30)) as connection:
            try:
                connection.request("GET" if content is None else "POST", path, content)
                response = connection.getresponse()
                return {"status": response.status, "body": b64encode(response.read()).decode()}
            except OSError:
                return {"status": 0, "body": ""}

    def begin_load(self, questions: Sequence[tuple[str, str]], clients: int) -> None:
        from tests.load import Load, Question

        asked = []
        for dataset, image in questions:
            answer = self.ask(f"/v1/datasets/{dataset}/predict?top_k=1000", image, 8000)
            (result,) = json.loads(b64decode(answer["body"]))["results"]
            expected = {each["label"]: each["probability"] for each in result["predictions"]}
            asked.append(Question(dataset, b64decode(image), expected=expected))
        self._load = Load(f"http://{ADDRESS}:8000", asked, clients=clients)
        self._load.__enter__()

    def end_load(self) -> dict[str, Any]:
        self._load.__exit__(None, None, None)
        return {
            "statuses": {str(status): count for status, count in self._load.statuses.items()},
            "wrong": self._load.wrong,
        }

    def answered(self) -> int:
        return int(self._load.statuses[200])


def serve(folder: Path) -> None:
    """Do what is told, line by line, until whoever tells is gone; the namespaces and all processes in them end then."""
    inside = Inside(folder)
    for line in sys.stdin:
        told = json.loads(line)
        result = getattr(inside, told["name"])(**told["arguments"])
        sys.stdout.write(json.dumps(result) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    serve(Path(sys.argv[1]))
