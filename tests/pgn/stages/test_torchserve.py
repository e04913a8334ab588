"""Both stages inside the real TorchServe: they tell their state, follow the index under load, and log as asked."""

from __future__ import annotations

import json
import random
import threading
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import pytest

from pgn.index import read_index
from pgn.message import Message, Request, StageState, Target, decode, encode
from pgn.serve.torchserve import TorchServe
from pgn.settings import TorchServeConfig
from tests.pgn.stages.asking import SQUARES, body
from tests.pgn.stages.swapping import Swapping
from tests.servers import RunningTorchServe, call, is_up, make_settings, register, wait_until

BYTES = {"Content-Type": "application/octet-stream"}


def ask_stage(config: TorchServeConfig, stage: Literal["pgn", "vit"], message: bytes) -> bytes:
    """One row to one of the workflow's two models, as the gateway sends it."""
    status, answer = call("POST", f"{config.inference}/predictions/pgn__{stage}", message, BYTES)
    assert status == 200, answer
    return answer


def state_of(config: TorchServeConfig, stage: Literal["pgn", "vit"]) -> StageState:
    request = Request(id="state", targets=(), ask="state")
    return StageState.model_validate_json(ask_stage(config, stage, encode(Message(request))))


@contextmanager
def started(store: Path, folder: Path, **changes: Any) -> Iterator[TorchServe]:
    """TorchServe with further settings, up but without the workflow."""
    with TorchServe(make_settings(store, folder, **changes)) as server:
        server.start()
        wait_until(lambda: is_up(server.config.inference), "TorchServe to come up")
        yield server


@pytest.mark.parametrize("stage", ["pgn", "vit"])
def test_a_stage_tells_what_it_holds_and_how_the_jvm_fares(
    torchserve: RunningTorchServe, stage: Literal["pgn", "vit"]
) -> None:
    """The gateway waits for revisions by it, and sees by it that TorchServe leaks threads."""
    state = state_of(torchserve.config, stage)
    assert state.revision == read_index(torchserve.settings.store).revision
    assert {each.dataset for each in state.versions if each.state == "ready"} == {"flowers", "pets", "shapes"}
    assert state.server_threads == pytest.approx(torchserve.jvm.num_threads(), abs=10)
    assert state.server_rss_bytes == pytest.approx(torchserve.jvm.memory_info().rss, rel=0.3)


@pytest.mark.slow
def test_bundles_are_swapped_every_second_under_mixed_load(swapping: Swapping, tmp_path: Path) -> None:
    """Two processes follow one index; sixteen clients get every answer, each wholly of the version that it names."""
    with started(swapping.store.root, tmp_path, log_format="json", log_level="info") as server:
        register(server.config)
        asked = ask_while_swapping(swapping, server.config, seconds=20)
        assert len(asked) > 200
        assert swapping.swaps >= 15
        wait_until(lambda: asked <= logged(server, "stage-vit") & logged(server, "stage-pgn"), "the log", 10)


def ask_while_swapping(swapping: Swapping, config: TorchServeConfig, seconds: float) -> set[str]:
    """Ask both stages as the gateway does until the time is over; returns the requests' ids."""
    end = time.monotonic() + seconds
    catalog = [read_index(swapping.store.root)]
    asked: set[str] = set()
    lock = threading.Lock()

    def follow() -> None:
        while time.monotonic() < end:
            index = read_index(swapping.store.root)
            if all(state_of(config, stage).revision >= index.revision for stage in ("pgn", "vit")):
                catalog[0] = index

    def client(seed: int) -> None:
        chance = random.Random(seed)
        while time.monotonic() < end:
            name, image = chance.choice(["flowers", "pets", "pets", "shapes"]), chance.randrange(len(SQUARES))
            target = Target(dataset=name, digest=catalog[0].main_version(name))
            request = Request(id=uuid.uuid4().hex, targets=(target,))
            written = decode(ask_stage(config, "pgn", encode(Message(request, SQUARES[[image]]))))
            answer = body(ask_stage(config, "vit", encode(written)))
            assert answer["request_id"] == request.id
            (result,) = answer["results"]
            assert result["version"] == str(target.digest)[:16]
            swapping.check(result, image)
            with lock:
                asked.add(request.id)

    with swapping.in_background(1.0), ThreadPoolExecutor(17) as pool:
        for done in [pool.submit(follow), *(pool.submit(client, seed) for seed in range(16))]:
            done.result()
    return asked


def logged(server: TorchServe, role: str) -> set[str]:
    """The ids of the requests that a stage's log names; every line of it is JSON."""
    lines = [line for line in server.log.read_text().splitlines() if role in line]
    return {request for line in map(json.loads, lines) for request in line.get("requests", [])}


@pytest.mark.slow
def test_a_gpu_that_was_asked_for_and_is_not_there_keeps_the_workflow_out(swapping: Swapping, tmp_path: Path) -> None:
    """The service stays unready, and the log has the cause in one line without a traceback."""
    with started(swapping.store.root, tmp_path, device="cuda") as server:
        with pytest.raises(AssertionError, match="the workflow was not registered"):
            register(server.config)
        text = server.log.read_text()
        assert "does not start: PGN_DEVICE=cuda, and torch sees no CUDA device" in text
        assert "SetupError" not in text
