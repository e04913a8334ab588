"""The path of an alert for real: the service, Debian's Prometheus with our rules, Alertmanager."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest
import yaml

from pgn.store.local import LocalStore
from tests.k8s.known import missing
from tests.k8s.promql import MONITORING, everywhere, plain
from tests.k8s.scrape import ask, ask_good_and_bad, watched_service, watched_training
from tests.k8s.watching import HURRY, Pod, Watching, example, hurried, watching
from tests.served import Served
from tests.servers import wait_until
from tests.toys import make_images

WAIT_S = 120


@pytest.fixture(scope="module")
def service(mixed_store: LocalStore, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A service that was asked well and badly."""
    folder = tmp_path_factory.mktemp("service")
    store = LocalStore(shutil.copytree(mixed_store.root, folder / "store"))
    with watched_service(store, folder) as server:
        ask_good_and_bad(server, store)
        yield server


@pytest.fixture(scope="module")
def watched(service: Served, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watching]:
    """The service and a training, watched."""
    with watched_training() as training:
        pods = [
            Pod("pgn-serve-0", urlsplit(service.url).netloc, app="pgn-serve", port="http"),
            Pod("pgn-train-0", f"127.0.0.1:{training.port}", app="pgn-train", port="metrics"),
            Pod("pgn-serve-0", "127.0.0.1:9", app="pgn-serve", port="other"),  # nobody's business
        ]
        with watching(tmp_path_factory.mktemp("watching") / "run", pods) as found:
            yield found


def test_only_waits_are_shortened() -> None:
    """What the tests below prove, they prove of the rules that operators load."""
    source = yaml.safe_load((MONITORING / "rules.yaml").read_text())
    quick = hurried(yaml.safe_load((MONITORING / "rules.yaml").read_text()))
    for group, other in zip(source["groups"], quick["groups"], strict=True):
        for rule, copy in zip(group["rules"], other["rules"], strict=True):
            assert {**rule, "for": None} == {**copy, "for": None}
    (alert,) = (rule for group in quick["groups"] for rule in group["rules"] if rule.get("alert") == "PgnNotReady")
    assert alert["for"] == f"{180 / HURRY * 1000:.0f}ms"


@pytest.mark.slow
def test_a_real_prometheus_evaluates_every_expression(watched: Watching) -> None:
    """Parsing is not all: joins that match two to two, or add what has other labels, fail only on real series."""
    wait_until(lambda: len(watched.query("pgn_ready and pgn_in_flight")) == 1, "the first scrape", WAIT_S)
    for expression in everywhere():
        watched.query(plain(expression.text))
    wait_until(lambda: watched.query('{__name__=~"pgn:.+"}') != [], "what rules record", WAIT_S)


@pytest.mark.slow
def test_a_real_prometheus_has_every_series_that_is_asked_for(watched: Watching) -> None:
    """As tests/k8s/test_metrics.py, of what Prometheus itself has read; this service follows no bucket."""
    wait_until(lambda: watched.query("ts_queue_latency_microseconds") != [], "TorchServe's part of a page", WAIT_S)
    known = watched.series('{__name__=~"(pgn|ts)_.+"}')
    faults = {missing(selector, known) for expression in everywhere() for selector in expression.selectors}
    assert {fault for fault in faults if fault and not fault.startswith("pgn_sync_")} == set()


@pytest.mark.slow
def test_the_example_gives_pods_the_labels_that_the_operator_gives(watched: Watching) -> None:
    """Rules, dashboard and prometheus-adapter are the same for both."""
    wait_until(lambda: len(watched.query("up == 1")) == 2, "both targets", WAIT_S)
    labels = [series["metric"] for series in watched.query("pgn_ready or pgn_training_step")]
    assert sorted((each["job"], each["namespace"], each["pod"]) for each in labels) == [
        ("pgn-serve", "pgn", "pgn-serve-0"),
        ("pgn-train", "pgn", "pgn-train-0"),
    ]


@pytest.mark.slow
def test_a_fault_reaches_alertmanager_and_leaves_it_when_it_is_mended(watched: Watching, service: Served) -> None:
    """TorchServe hangs, then goes on: who is on duty hears of both, with the words and the runbook of the rule."""
    wait_until(lambda: watched.query("pgn:replicas_ready:sum == 1") != [], "a service that is well", WAIT_S)
    wait_until(lambda: "PgnNotReady" not in watched.alerts(), "silence", WAIT_S)
    family = [psutil.Process(service.find("java").pid)]
    family += family[0].children(recursive=True)
    for process in family:
        process.suspend()
    try:
        wait_until(lambda: "PgnNotReady" in watched.alerts(), "the page", WAIT_S)
        words = watched.alerts()["PgnNotReady"]
        assert words["summary"] == "pgn-serve: no replica is ready"
        assert words["runbook_url"] == "docs/runbooks/pgn-not-ready.md"
        (image,) = make_images(1)
        assert ask(service, f"{service.url}/v1/datasets/flowers/predict", image) in (503, 504)  # and it is true
    finally:
        for process in reversed(family):
            process.resume()
    wait_until(service.is_ready, "the service to be well again", WAIT_S)
    wait_until(lambda: "PgnNotReady" not in watched.alerts(), "the end of the alert", WAIT_S)


@pytest.mark.slow
def test_a_bundle_that_does_not_verify_raises_its_ticket(watched: Watching) -> None:
    """`broken` has a changed byte: the stage refuses it, and somebody is told."""
    wait_until(lambda: {"PgnBundleRefused", "PgnDatasetUnavailable"} <= watched.alerts().keys(), "both tickets", WAIT_S)


@pytest.mark.parametrize(("severity", "receiver"), [("page", "pager"), ("ticket", "tickets")])
def test_alertmanagers_example_is_sound_and_tells_pages_from_tickets(severity: str, receiver: str) -> None:
    """It is what operators begin with."""
    if shutil.which("amtool") is None:
        pytest.skip("amtool is not installed: apt-get install prometheus-alertmanager")
    file = MONITORING / "alertmanager.yaml"
    check = subprocess.run(["amtool", "check-config", file], capture_output=True, text=True)
    assert check.returncode == 0, check.stdout + check.stderr
    route = ["amtool", "config", "routes", "test", f"--config.file={file}", f"severity={severity}"]
    assert subprocess.run(route, capture_output=True, text=True).stdout.strip() == receiver


def test_prometheus_example_is_sound(tmp_path: Path) -> None:
    """With the rules that it names."""
    if shutil.which("promtool") is None:
        pytest.skip("promtool is not installed: apt-get install prometheus")
    pod = Pod("pgn-serve-0", "127.0.0.1:8000", app="pgn-serve", port="http")
    (tmp_path / "prometheus.yaml").write_text(yaml.safe_dump(example([pod])))
    shutil.copy(MONITORING / "rules.yaml", tmp_path)
    check = ["promtool", "check", "config", tmp_path / "prometheus.yaml"]
    run = subprocess.run(check, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
