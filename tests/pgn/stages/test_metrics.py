"""What the stages count: rows by outcome, batches, queue, bank, and the drift of every data set."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch

from pgn.errors import BundleCorrupt
from pgn.index import read_index
from pgn.message import CANARY_ID, Message, Request, Target, decode, encode
from pgn.settings import Settings
from pgn.stages.pgn_stage import PgnStage
from pgn.stages.rows import Row
from pgn.stages.vit_stage import VitStage
from pgn.store.local import LocalStore
from tests.pgn.stages.asking import SQUARES, ask
from tests.toys import make_bundle, make_store


class Stages:
    """Both stages in process."""

    def __init__(self, settings: Settings) -> None:
        self.pgn = PgnStage.load(settings, torch.device("cpu"))
        self.vit = VitStage.load(settings, torch.device("cpu"))

    def value(self, name: str, stage: str = "pgn", **labels: str) -> float | None:
        """A sample's value; None if there is none."""
        metrics = (self.pgn if stage == "pgn" else self.vit)._metrics
        return metrics.registry.get_sample_value(name, {"stage": stage, **labels})

    def drift(self, dataset: str, name: str = "pgn_prompt_drift") -> float | None:
        return self.pgn._metrics.registry.get_sample_value(name, {"dataset": dataset})


@pytest.fixture
def stages(mixed_store: LocalStore) -> Stages:
    return Stages(Settings(store=mixed_store.root))


def state_row() -> Row:
    return {"body": encode(Message(Request(id="s", targets=(), ask="state")))}


def test_rows_are_counted_by_what_they_asked_and_what_came_of_them(stages: Stages) -> None:
    """Of a batch in which one fails, an operator sees which error and how many were answered."""
    stages.pgn.answer([ask("a", ["pets"], [0, 1]), ask(CANARY_ID, ["pets"]), ask("b", ["lost"]), {"body": b""}])
    rows = "pgn_stage_rows_total"
    assert stages.value(rows, asked="prediction", outcome="ok") == 1
    assert stages.value(rows, asked="canary", outcome="ok") == 1
    assert stages.value(rows, asked="prediction", outcome="dataset.unavailable") == 1
    assert stages.value(rows, asked="unreadable", outcome="request.empty") == 1
    assert stages.value("pgn_stage_images_total") == 3  # of requests: the canary's is nobody's
    assert stages.value("pgn_stage_batch_rows_sum") == 4
    assert stages.value("pgn_stage_batch_seconds_count") == 1


def test_a_question_for_the_state_is_no_batch_of_work(stages: Stages) -> None:
    """The gateway asks all day; its questions would make every histogram look idle."""
    stages.vit.answer([state_row()])
    assert stages.value("pgn_stage_rows_total", "vit", asked="state", outcome="ok") == 1
    assert not stages.value("pgn_stage_batch_seconds_count", "vit")


def test_both_stages_time_their_queue(stages: Stages) -> None:
    """Load shows here first; a row that does not say when it left is left out."""
    sent = Request(id="a", targets=(Target(dataset="pets"),), reply="all", sent_at=time.time() - 0.7)
    (written,) = stages.pgn.answer([{"body": encode(Message(sent, SQUARES[:1]))}])
    stages.vit.answer([{"body": written}, {"body": encode(decode(written).with_prompts(decode(written).prompts))}])
    assert stages.value("pgn_stage_queue_seconds_count") == 1
    assert stages.value("pgn_stage_queue_seconds_sum") == pytest.approx(0.7, abs=0.5)
    assert stages.value("pgn_stage_queue_seconds_count", "vit") == 2
    stages.pgn.answer([ask("b", ["pets"])])
    assert stages.value("pgn_stage_queue_seconds_count") == 1


@pytest.mark.parametrize("stage", ["pgn", "vit"])
def test_the_bank_is_shown_by_state_with_its_bytes_and_loads(stages: Stages, stage: str) -> None:
    """Three data sets served, three refused for different reasons; each load is counted with its outcome."""
    bank = stages.pgn.bank if stage == "pgn" else stages.vit.bank
    states = {state: stages.value("pgn_bank_versions", stage, state=state) for state in ("ready", "refused", "leaving")}
    assert states == {"ready": 3, "refused": 3, "leaving": 0}
    assert stages.value("pgn_bank_bytes", stage, tier="host") == sum(h.bytes for h in bank.snapshot.held.values())
    assert stages.value("pgn_bank_loads_total", stage, outcome="ok") == 3
    assert stages.value("pgn_bank_loads_total", stage, outcome=BundleCorrupt.code) == 1
    assert stages.value("pgn_bank_load_seconds_count", stage) == 6
    assert stages.value("pgn_stage_index_revision", stage) == bank.snapshot.index.revision


def test_a_replaced_version_is_leaving_until_its_grace_is_over(tmp_path: Path) -> None:
    """What costs memory is shown, also when nobody is meant to ask it any more."""
    store = make_store(tmp_path, ["pets"])
    stages = Stages(Settings(store=store.root, deadline_s=100))
    store.publish(make_bundle(store.root / "made", "pets", read_index(store.root).backbone, seed=4))
    stages.pgn.bank.refresh()
    assert stages.value("pgn_bank_versions", state="ready") == 1
    assert stages.value("pgn_bank_versions", state="leaving") == 1


def test_the_drift_of_every_data_set_is_shown_and_goes_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The gauge is the monitor's number for the version that most requests get."""
    monkeypatch.setattr("pgn.stages.pgn_stage._SHOW_DRIFT_EVERY_S", 0.0)
    store = make_store(tmp_path, ["pets", "flowers"])
    stages = Stages(Settings(store=store.root))
    stages.pgn.answer([ask("a", ["pets"], [0, 1, 2])])
    ((_, found),) = stages.pgn.drift.drift().items()
    assert stages.drift("pets") == found.distance > 0
    assert stages.drift("pets", "pgn_prompt_drift_noise") == found.noise
    assert stages.drift("pets", "pgn_prompt_drift_images") == pytest.approx(3, rel=0.01)
    assert stages.drift("flowers") is None
    store.remove("pets")
    stages.pgn.bank.refresh()
    stages.pgn.answer([ask("a", ["flowers"])])
    gone = stages.drift("pets")
    assert gone is not None
    assert gone != gone  # not a number, which the page leaves out
    assert stages.drift("flowers")


def test_versions_and_device_are_shown(stages: Stages, mixed_store: LocalStore) -> None:
    """Which torch answers, with which ViT, and whether really on the GPU."""
    (info,) = (m for m in stages.vit._metrics.registry.collect() if m.name == "pgn_stage_info")
    (sample,) = info.samples
    assert sample.labels["device"] == "cpu"
    assert torch.__version__.startswith(sample.labels["torch"].partition("+")[0])
    assert sample.labels["backbone"] == read_index(mixed_store.root).backbone[:16]
