"""The pod of the overlay `cpu`, rehearsed: its containers' own commands, settings, folders, probes and end.

Everything is read from the rendered manifests and the Dockerfile. What takes no cluster to find out is found here: a
folder that cannot be written to, a probe that nobody can answer, an order that waits for itself.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace

import pytest

from k8s.check.combinations import ROOT
from k8s.check.objects import pods
from tests.k8s.inputs import Environment
from tests.k8s.rehearsal import Rehearsal, image_of, rehearsed
from tests.k8s.rendered import CPU, render
from tests.servers import wait_until
from tests.toys import make_images

LIMIT_S = 400  # busy machines take a minute for what takes seconds
DOCUMENTED = {"200", "503", "504"}
"""While TorchServe is away (docs/operations.md): refused, or given up at the deadline; never a broken connection."""


def test_the_image_is_what_the_dockerfile_says() -> None:
    """The rehearsal's root has the image's paths, so that a path that is only there on this machine fails."""
    image = image_of(ROOT / "Dockerfile")
    assert image.working_folder == "/app"
    assert image.env["PATH"].startswith("/opt/venv/bin:/usr/local/sbin:")
    assert {"/opt/venv", "/app/model_store", "/app/config.properties"} <= image.folders.keys()
    assert image.entry_point[1:] == ("--",)


def test_every_container_finds_its_settings() -> None:
    """Each variable of the manifests can be told before anything is started: no reference is left open."""
    objects = render(CPU)
    (pod,) = pods(objects)
    environment = Environment(pod, objects)
    found = {each.name: environment.of(each, image_of(ROOT / "Dockerfile")) for each in pod.containers}
    assert {env["PGN_STORE"] for env in found.values()} == {"/var/lib/pgn/store"}
    assert found["torchserve"]["OMP_NUM_THREADS"] == "2"
    assert "PGN_KEYS" not in found["gateway"] or found["gateway"]["PGN_ANONYMOUS"] == "true"


@pytest.fixture(scope="module")
def pod(namespaces: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rehearsal]:
    """The pod, ready. Two threads of torch that spin would starve each other beside other work: one is enough here."""
    image = image_of(ROOT / "Dockerfile")
    image = replace(image, env={**image.env, "OMP_WAIT_POLICY": "PASSIVE"})
    with rehearsed(render(CPU), tmp_path_factory.mktemp("pod"), image) as rehearsal:
        rehearsal.wait_ready(LIMIT_S)
        yield rehearsal


def questions(pod: Rehearsal) -> list[tuple[str, bytes]]:
    """Every data set that is served, about a few images."""
    datasets = [each["name"] for each in json.loads(pod.ask("/v1/datasets")[1])["datasets"]]
    return [(dataset, image) for dataset in datasets for image in make_images(2)]


# In the order of the pod's life: each test finds it as the one before has left it.


@pytest.mark.slow
@pytest.mark.timeout(3 * LIMIT_S)
class TestThePodsLife:
    def test_containers_start_in_their_order(self, pod: Rehearsal) -> None:
        """The store is filled before TorchServe starts, and TorchServe takes connections before the gateway asks it."""
        started = [each for each in pod.events() if each.endswith(("started", "is up", "ended 0"))]
        assert started == [
            "store started",
            "store ended 0",
            "torchserve started",
            "torchserve is up",
            "gateway started",
            "gateway is up",
        ]

    def test_it_is_ready_when_it_answers(self, pod: Rehearsal) -> None:
        """Ready means a prediction, not an open port."""
        dataset, image = questions(pod)[0]
        status, body = pod.ask(f"/v1/datasets/{dataset}/predict", image)
        assert status == 200, body
        assert json.loads(body)["results"][0]["predictions"]

    def test_metrics_of_both_stages_are_on_the_gateway_s_page(self, pod: Rehearsal) -> None:
        """They come through a folder that two containers share: with another user or path, half of them is lost."""
        page = pod.ask("/metrics")[1].decode()
        assert "pgn_stage_info{" in page
        assert "\npgn_ready 1.0" in page

    @pytest.mark.parametrize("container", ["torchserve", "gateway"])
    def test_a_container_cannot_write_to_its_root(self, pod: Rehearsal, container: str) -> None:
        """What runs there has just shown that it does not need to."""
        for path in ("/x", "/app/x", "/opt/venv/x", "/etc/x", "/etc/pgn/torchserve/x"):
            assert pod.run(container, "sh", "-c", f"echo > {path}") != 0, path
        assert pod.run(container, "sh", "-c", "echo > /tmp/x") == 0

    def test_torchserve_that_is_killed_comes_back_and_no_request_is_lost(self, pod: Rehearsal) -> None:
        """The node's memory killer takes the largest process; callers get an answer all the while, if only a 503."""
        pod.begin_load(questions(pod), clients=2)
        pod.kill("torchserve")
        pod.wait_for("torchserve ended 137", 60)
        wait_until(lambda: "is up" in after_the_kill(pod), "TorchServe to be up again", LIMIT_S)
        pod.wait_ready(LIMIT_S)
        answered = pod.answered()
        wait_until(lambda: pod.answered() > answered + 10, "answers after the restart", LIMIT_S)
        load = pod.end_load()
        assert load["wrong"] == []
        assert load["statuses"].keys() <= DOCUMENTED, load
        assert pod.events("gateway").count("started") == 1, "the gateway outlives TorchServe"

    def test_a_pod_that_is_deleted_answers_whoever_still_asks(self, pod: Rehearsal) -> None:
        """Endpoints hear of a pod's end some seconds late: it answers until then, and ends in order, by itself."""
        pod.begin_load(questions(pod), clients=1)
        wait_until(lambda: pod.answered() > 3, "the first answers", LIMIT_S)
        pod.delete()
        pod.wait_for("gateway unready", 30)  # and now nobody new is sent to it
        load = pod.end_load()
        assert load["statuses"].keys() == {"200"}, load
        assert load["wrong"] == []
        wait_until(pod.is_gone, "the end of the pod", 90)
        events = pod.events()
        assert [each for each in events[events.index("deleted") :] if "ready" not in each] == [
            "deleted",
            "gateway SIGTERM",
            "gateway ended 0",
            "torchserve SIGTERM",
            "torchserve ended 0",
            "gone",
        ]


def after_the_kill(pod: Rehearsal) -> list[str]:
    """What happened to TorchServe since it was killed."""
    events = pod.events("torchserve")
    return events[events.index("ended 137") :]
