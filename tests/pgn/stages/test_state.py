"""A stage says what it holds, in the same batch as it answers."""

from __future__ import annotations

import os
from typing import Literal

import psutil
import pytest
import torch

from pgn.index import read_index
from pgn.message import HeldVersion, Message, Request, StageState, Target, decode, encode
from pgn.settings import Settings
from pgn.stages.pgn_stage import PgnStage
from pgn.stages.rows import Row
from pgn.stages.vit_stage import VitStage
from pgn.store.local import LocalStore
from tests.pgn.stages.asking import ask, body

CPU = torch.device("cpu")


@pytest.fixture(scope="module", params=["pgn", "vit"])
def stage(request: pytest.FixtureRequest, mixed_store: LocalStore) -> PgnStage | VitStage:
    """Each of the two, over a store where not everything verifies."""
    return {"pgn": PgnStage, "vit": VitStage}[request.param].load(Settings(store=mixed_store.root), CPU)


def ask_state(*targets: Target) -> Row:
    return {"body": encode(Message(Request(id="state", targets=targets, ask="state")))}


def state_of(stage: PgnStage | VitStage, *targets: Target) -> StageState:
    (answer,) = stage.answer([ask_state(*targets)])
    return StageState.model_validate_json(answer)


def test_without_targets_every_version_is_told(stage: PgnStage | VitStage, mixed_store: LocalStore) -> None:
    """Ready or refused, with the reason: the same list as the index."""
    index = read_index(mixed_store.root)
    state = state_of(stage)
    assert (state.request_id, state.revision, state.device) == ("state", index.revision, "cpu")
    assert [(each.dataset, each.digest) for each in state.versions] == [
        (name, entry.versions[0].digest) for name, entry in index.datasets.items()
    ]
    by_name = {each.dataset: each for each in state.versions}
    assert {name for name, each in by_name.items() if each.state == "refused"} == {"broken", "foreign", "lost"}
    assert "its name says" in str(by_name["broken"].last_error)
    assert by_name["pets"].last_error is None


def test_a_version_has_tier_size_and_age(stage: PgnStage | VitStage) -> None:
    """The operator sees what a data set costs, and since when it is there."""
    (pets,) = state_of(stage, Target(dataset="pets")).versions
    held = stage.bank.snapshot.find(Target(dataset="pets"))
    assert pets.tier == "host"
    assert pets.bytes == sum(tensor.nbytes for tensor in held.module.state_dict().values()) > 0
    assert pets.age_s > 0


def test_a_version_that_is_not_there_is_left_out(stage: PgnStage | VitStage, mixed_store: LocalStore) -> None:
    """Whoever waits for it asks again; by digest another version does not stand in for it."""
    digest = read_index(mixed_store.root).datasets["pets"].versions[0].digest
    targets = (Target(dataset="pets", digest=digest), Target(dataset="pets", digest="0" * 64), Target(dataset="no"))
    versions = state_of(stage, *targets).versions
    assert [(each.dataset, each.digest, each.state) for each in versions] == [("pets", digest, "ready")]


def test_the_model_servers_process_is_watched(stage: PgnStage | VitStage) -> None:
    """TorchServe leaks threads when it is ill; its workers are its children and see it."""
    state, parent = state_of(stage), psutil.Process(os.getppid())
    assert state.server_threads == parent.num_threads()
    assert state.server_rss_bytes == pytest.approx(parent.memory_info().rss, rel=0.5)


def test_state_and_images_share_a_batch(mixed_store: LocalStore) -> None:
    """The gateway asks while requests flow, and neither disturbs the other."""
    first, second = (kind.load(Settings(store=mixed_store.root), CPU) for kind in (PgnStage, VitStage))
    state, prompts = first.answer([ask_state(), ask("a", ["pets"])])
    assert StageState.model_validate_json(state).stage == "pgn"
    answer, state = second.answer([{"body": prompts}, ask_state()])
    assert body(answer)["request_id"] == decode(prompts).request.id == "a"
    assert StageState.model_validate_json(state).stage == "vit"


@pytest.mark.parametrize(("device", "tier"), [("cpu", "host"), ("meta", "device")])
def test_weights_beyond_the_host_are_told(
    mixed_store: LocalStore, device: str, tier: Literal["host", "device"], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One host copy is shared by all processes; a GPU's memory is each stage's own."""
    stage = PgnStage.load(Settings(store=mixed_store.root), CPU)
    monkeypatch.setattr(stage, "_device", torch.device(device))
    assert {HeldVersion.model_validate(each).tier for each in state_of(stage).versions} == {tier}
