"""A real Prometheus and a real Alertmanager, watching a real service."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import pytest
import yaml
from promql_parser import parse_duration

from pgn.serve.ports import free_port
from tests.k8s.promql import MONITORING
from tests.k8s.scrape import Series
from tests.servers import call, wait_until

HURRY: Final = 60
"""In a test a minute is a second."""

_PROGRAMS: Final = {
    "prometheus": "prometheus",
    "prometheus-alertmanager": "prometheus-alertmanager",
    "amtool": "prometheus-alertmanager",
}


@dataclass(frozen=True)
class Watching:
    """Where both of them are asked."""

    prometheus: str
    alertmanager: str

    def query(self, expression: str) -> list[dict[str, Any]]:
        """What Prometheus answers now.

        Raises:
            AssertionError: It does not understand the question.
        """
        status, body = call("GET", f"{self.prometheus}/api/v1/query?query={quote(expression)}")
        assert status == 200, f"{expression}: {body.decode()}"
        return json.loads(body)["data"]["result"]

    def series(self, selector: str) -> Series:
        """Labels of all series that a selector matches, by name."""
        body = call("GET", f"{self.prometheus}/api/v1/series?match[]={quote(selector)}")[1]
        found: Series = {}
        for labels in json.loads(body)["data"]:
            found.setdefault(labels.pop("__name__"), []).append(labels)
        return found

    def alerts(self) -> dict[str, dict[str, str]]:
        """Alerts that have reached Alertmanager and are not over: their annotations by name."""
        body = call("GET", f"{self.alertmanager}/api/v2/alerts?active=true")[1]
        return {alert["labels"]["alertname"]: alert["annotations"] for alert in json.loads(body)}


def hurried(rules: dict[str, Any]) -> dict[str, Any]:
    """The rules with every wait (`for`) and every pause between evaluations (`interval`) divided by HURRY.

    Nothing else is changed: expressions, their windows among them, labels and annotations are those that operators get.
    """
    for group in rules["groups"]:
        group["interval"] = "1s"
        for rule in group["rules"]:
            if "for" in rule:
                rule["for"] = f"{parse_duration(rule['for']).total_seconds() / HURRY * 1000:.0f}ms"
    return rules


@dataclass(frozen=True)
class Pod:
    """A scraped address, as Kubernetes' service discovery would describe it."""

    name: str
    address: str
    app: str
    port: str

    def found(self) -> dict[str, Any]:
        """The target with the labels that service discovery gives it."""
        meta = {
            "namespace": "pgn",
            "pod_name": self.name,
            "pod_phase": "Running",
            "pod_label_app_kubernetes_io_name": self.app,
            "pod_container_port_name": self.port,
        }
        return {"targets": [self.address], "labels": {f"__meta_kubernetes_{key}": meta[key] for key in meta}}


def example(pods: Sequence[Pod]) -> dict[str, Any]:
    """k8s/monitoring/prometheus.yaml, with `pods` in place of what a cluster would find.

    Debian builds Prometheus without Kubernetes' service discovery; what the example does with its labels stays.
    """
    config: dict[str, Any] = yaml.safe_load((MONITORING / "prometheus.yaml").read_text())
    for job in config["scrape_configs"]:
        if job.pop("kubernetes_sd_configs", None):
            job["static_configs"] = [pod.found() for pod in pods]
    return config


@contextmanager
def watching(folder: Path, pods: Sequence[Pod]) -> Iterator[Watching]:
    """Our example of a Prometheus with our rules, hurried, and our example of an Alertmanager, until the block ends."""
    folder.mkdir()
    missing = sorted({package for program, package in _PROGRAMS.items() if shutil.which(program) is None})
    if missing:
        pytest.skip(f"not installed: apt-get install {' '.join(missing)}")
    rules = hurried(yaml.safe_load((MONITORING / "rules.yaml").read_text()))
    (folder / "rules.yaml").write_text(yaml.safe_dump(rules))
    (folder / "alertmanager.yaml").write_text((MONITORING / "alertmanager.yaml").read_text())
    prometheus, alertmanager = (f"127.0.0.1:{free_port('127.0.0.1')}" for _ in range(2))
    config = example(pods)
    config["global"] = {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"}
    config["alerting"] = {"alertmanagers": [{"static_configs": [{"targets": [alertmanager]}]}]}
    config["scrape_configs"] = [job for job in config["scrape_configs"] if job["job_name"] == "pgn-pods"]
    (folder / "prometheus.yaml").write_text(yaml.safe_dump(config))
    with ExitStack() as running:
        for command in (
            [
                "prometheus-alertmanager",
                "--config.file=alertmanager.yaml",
                f"--web.listen-address={alertmanager}",
                "--storage.path=alerts",
                "--cluster.listen-address=",
            ],
            [
                "prometheus",
                "--config.file=prometheus.yaml",
                f"--web.listen-address={prometheus}",
                "--storage.tsdb.path=series",
                "--rules.alert.resend-delay=1s",
            ],
        ):
            running.enter_context(_process(command, folder))
        found = Watching(f"http://{prometheus}", f"http://{alertmanager}")
        for address in (found.prometheus, found.alertmanager):
            wait_until(lambda address=address: _is_up(address), f"{address} to be ready", 60)
        yield found


@contextmanager
def _process(command: Sequence[str], folder: Path) -> Iterator[None]:
    with (
        (folder / f"{command[0]}.log").open("wb") as log,
        subprocess.Popen(command, cwd=folder, stdout=log, stderr=log) as process,
    ):
        try:
            yield
        finally:
            process.terminate()


def _is_up(address: str) -> bool:
    try:
        return call("GET", f"{address}/-/ready", timeout_s=5)[0] == 200
    except OSError:
        return False
