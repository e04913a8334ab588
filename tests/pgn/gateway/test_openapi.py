"""The API is what /openapi.json says: schemathesis makes requests from it, right ones and wrong ones."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pgn.settings import Settings
from tests.pgn.gateway.conftest import RunningGateway, running_gateway
from tests.pgn.gateway.scripted import ScriptedTorchServe
from tests.servers import RunningTorchServe
from tests.toys import make_store

# Bytes made at random are right by the description, which cannot say what an image or a bundle is.
CONFIG = """
[checks]
positive_data_acceptance.expected-statuses = ["2xx", "400", "404", "409", "413", "415", "422"]
"""


def check(url: str, folder: Path, *arguments: str, timeout_s: float) -> None:
    """Let schemathesis try the service at `url`; its report is the failure."""
    (folder / "schemathesis.toml").write_text(CONFIG)
    command = [sys.executable, "-m", "schemathesis.cli", "--config-file", str(folder / "schemathesis.toml")]
    done = subprocess.run(
        [*command, "run", f"{url}/openapi.json", "--no-color", *arguments],
        capture_output=True,
        text=True,
        timeout=timeout_s,
        cwd=folder,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_api_keeps_to_its_description(tmp_path: Path, shared_scripted: ScriptedTorchServe) -> None:
    """Statuses, bodies and headers are those described; what is wrong by the description is refused; nothing is 500."""
    shared_scripted.reset()
    make_store(tmp_path / "store", ["birds", "digits"])
    with running_gateway(Settings(store=tmp_path / "store"), shared_scripted.config) as running:
        running.wait_ready()
        check(running.url, tmp_path, "--max-examples=3", "--phases=examples,coverage,fuzzing", timeout_s=200)


@pytest.mark.slow
@pytest.mark.timeout(1600)
def test_the_real_service_keeps_to_its_description(tmp_path: Path, torchserve: RunningTorchServe) -> None:
    """The same with many more requests, through TorchServe and the stages; its store belongs to all tests."""
    with running_gateway(torchserve.settings, torchserve.config) as running:
        running.wait_ready()
        check(running.url, tmp_path, "--max-examples=100", "--exclude-method=PUT,DELETE", timeout_s=1500)


def document(gateway: RunningGateway) -> dict[str, Any]:
    found: dict[str, Any] = gateway.http.get("/openapi.json").json()
    return found


def test_bodies_answers_and_errors_are_described(gateway: RunningGateway) -> None:
    """Generated clients need the types of what is sent, of what comes back, and of what goes wrong."""
    described = document(gateway)
    post = described["paths"]["/v1/datasets/{dataset}/predict"]["post"]
    assert post["responses"]["200"]["content"]["application/json"]["schema"]["$ref"].endswith("/Answer")
    for status in ("400", "401", "403", "404", "413", "415", "422", "429", "503", "504"):
        assert post["responses"][status]["content"]["application/json"]["schema"]["$ref"].endswith("/ErrorBody")
    assert {"multipart/form-data", "application/json"} <= post["requestBody"]["content"].keys()
    result = described["components"]["schemas"]["Result"]["properties"]
    assert result.keys() == {"image", "dataset", "version", "predictions", "unknown", "embedding"}
    put = described["paths"]["/v1/datasets/{dataset}"]["put"]
    assert {"200", "201", "202", "409", "413", "422", "507"} <= put["responses"].keys()
    assert "422" not in described["paths"]["/v1/datasets/{dataset}"]["get"]["responses"]
    assert not any("ValidationError" in name for name in described["components"]["schemas"])


def test_keys_are_described_where_they_are_asked_for(gateway: RunningGateway) -> None:
    """`/docs` offers to enter one, and health needs none."""
    described = document(gateway)
    assert described["components"]["securitySchemes"].keys() == {"bearer", "apiKey"}
    for path, operations in described["paths"].items():
        for operation in operations.values():
            assert ("security" in operation) == path.startswith("/v1/")


def test_the_example_in_the_description_is_an_image(gateway: RunningGateway) -> None:
    """Whoever presses "Execute" in /docs gets an answer."""
    post = document(gateway)["paths"]["/v1/datasets/{dataset}/predict"]["post"]
    for example in post["requestBody"]["content"]["application/json"]["examples"].values():
        assert gateway.http.post("/v1/datasets/digits/predict", json=example["value"]).status_code == 200
