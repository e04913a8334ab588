"""Both stages on one CUDA device. Run with `pytest -m gpu`.

Answers may differ from the CPU's by rounding: another order of sums, and on recent devices convolutions in TF32, which
keeps ten bits. The bound on probabilities is 1e-3.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from pgn.index import read_index
from pgn.message import Message, Request, StageState, Target, encode
from pgn.settings import Settings
from pgn.stages.pgn_stage import PgnStage
from pgn.stages.rows import Row
from pgn.stages.vit_stage import VitStage
from pgn.stages.worker import choose_device
from pgn.store.local import LocalStore
from tests.pgn.stages.asking import SQUARES, ask, body, probabilities
from tests.servers import wait_until
from tests.toys import make_bundle, make_store

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device"),
]

BOUND = 1e-3
CPU = torch.device("cpu")

Stages = tuple[PgnStage, VitStage]


def load(store: LocalStore, device: torch.device) -> Stages:
    settings = Settings(store=store.root)
    return PgnStage.load(settings, device), VitStage.load(settings, device)


@pytest.fixture(scope="module")
def cuda(mixed_store: LocalStore) -> Stages:
    """Both stages on one device, as TorchServe with `number_of_gpu=1` has them."""
    return load(mixed_store, choose_device("cuda", 0))


def answers(stages: Stages, rows: list[Row]) -> list[dict[str, float]]:
    """The probabilities of every result of every row, in order."""
    first, second = stages
    written = [{"body": answer} for answer in first.answer(rows)]
    return [probabilities(result) for answer in second.answer(written) for result in body(answer)["results"]]


def mixed_rows() -> list[Row]:
    datasets = ("flowers", "pets", "shapes")
    return [ask(str(i), [datasets[i % 3], datasets[(i + 1) % 3]], [i % len(SQUARES)]) for i in range(16)]


def test_the_answers_are_those_of_the_cpu(cuda: Stages, mixed_store: LocalStore) -> None:
    """Data sets, heads and numbers of prompts mixed in one batch."""
    for found, wanted in zip(answers(cuda, mixed_rows()), answers(load(mixed_store, CPU), mixed_rows()), strict=True):
        assert found == pytest.approx(wanted, abs=BOUND)


def test_a_row_is_answered_alone_as_in_a_batch(cuda: Stages) -> None:
    """Another size of batch is another order of sums, and no more."""
    rows = mixed_rows()
    alone = [each for row in rows for each in answers(cuda, [row])]
    for found, wanted in zip(answers(cuda, rows), alone, strict=True):
        assert found == pytest.approx(wanted, abs=BOUND)


def test_weights_lie_on_the_device(cuda: Stages) -> None:
    """And the operator sees that they do."""
    for stage in cuda:
        held = stage.bank.snapshot.find(Target(dataset="pets"))
        assert {each.device.type for each in held.module.parameters()} == {"cuda"}
        (answer,) = stage.answer([{"body": encode(Message(Request(id="a", targets=(), ask="state")))}])
        state = StageState.model_validate_json(answer)
        assert state.device == "cuda:0"
        assert {each.tier for each in state.versions} == {"device"}


def test_a_batch_too_large_for_the_memory_is_answered_in_parts(
    cuda: Stages, mixed_store: LocalStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The error is the device's own: passes over more than four rows ask it for more memory than it has."""
    encode_tokens = cuda[1]._backbone.encode

    def greedy(tokens: torch.Tensor) -> torch.Tensor:
        if len(tokens) > 4:
            _, total = torch.cuda.mem_get_info()
            torch.empty(2 * total, dtype=torch.uint8, device=tokens.device)
        return encode_tokens(tokens)

    wanted = answers(load(mixed_store, CPU), mixed_rows())
    monkeypatch.setattr(cuda[1]._backbone, "encode", greedy)
    for found, each in zip(answers(cuda, mixed_rows()), wanted, strict=True):
        assert found == pytest.approx(each, abs=BOUND)
    assert "found no memory; it is made in halves" in caplog.text


def test_bundles_come_and_go_beside_running_passes(tmp_path: Path) -> None:
    """Weights are copied to the device by another thread than the one that answers."""
    store = make_store(tmp_path / "store", ["flowers", "pets"])
    backbone = read_index(store.root).backbone
    made = [make_bundle(tmp_path / "made", "pets", backbone, seed=seed) for seed in range(5, 10)]
    stages = load(store, choose_device("cuda", 0))
    with following(stages):
        ending = threading.Event()
        failed: list[BaseException] = []

        def keep_asking() -> None:
            try:
                while not ending.is_set():
                    answers(stages, [ask("a", ["flowers"])])
            except BaseException as error:
                failed.append(error)

        thread = threading.Thread(target=keep_asking)
        thread.start()
        for path in made:
            bundle, _ = store.publish(path)
            key = ("pets", bundle.digest)
            wait_until(lambda key=key: all(key in stage.bank.snapshot.held for stage in stages), "the new version")
        ending.set()
        thread.join()
    assert not failed
    (found,), (wanted,) = (answers(each, [ask("a", ["pets"])]) for each in (stages, load(store, CPU)))
    assert found == pytest.approx(wanted, abs=BOUND)


@contextmanager
def following(stages: Stages) -> Iterator[None]:
    """Both stages follow the index until the block ends."""
    for stage in stages:
        stage.bank.follow(0.01)
    try:
        yield
    finally:
        for stage in stages:
            stage.bank.close()
