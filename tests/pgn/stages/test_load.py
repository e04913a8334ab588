"""Under load, while bundles come and go: every answer is one version's, and none is missing."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from pgn.index import read_index
from pgn.message import Message, Request, Target, decode, encode
from pgn.settings import Settings
from pgn.stages.pgn_stage import PgnStage
from pgn.stages.vit_stage import VitStage
from tests.pgn.stages.asking import SQUARES, body
from tests.pgn.stages.swapping import VERSIONS, Swapping
from tests.servers import wait_until

CPU = torch.device("cpu")


@pytest.fixture
def stages(swapping: Swapping) -> Iterator[tuple[PgnStage, VitStage]]:
    """Both stages as two processes would run them: each follows the index by itself, with a second of grace."""
    settings = Settings(store=swapping.store.root, deadline_s=0.5)
    first, second = PgnStage.load(settings, CPU), VitStage.load(settings, CPU)
    for stage in (first, second):
        stage.bank.follow(0.01)
    yield first, second
    for stage in (first, second):
        stage.bank.close()


def test_no_answer_mixes_two_versions_and_none_is_missing(
    swapping: Swapping, stages: tuple[PgnStage, VitStage]
) -> None:
    """Rows name the version that both stages held when they were sent, as the gateway's do, or none at all.

    The stages change at different moments, and between one stage's answer and the other's question.
    """
    first, second = stages
    chance = random.Random(0)
    answered: set[str] = set()
    with swapping.in_background(0.1):
        for number in range(10_000):
            if swapping.swaps >= 20 and len(answered) >= VERSIONS:
                break
            targets = chance.choices(served_by_both(first, second), k=8)
            asked = [(target, chance.randrange(len(SQUARES))) for target in targets]
            answers = through(first, second, [row(str(i), *each) for i, each in enumerate(asked)])
            for (target, image), answer in zip(asked, answers, strict=True):
                assert "results" in answer, (number, answer)
                (result,) = answer["results"]
                assert (result["dataset"], result["version"]) == (target.dataset, str(target.digest)[:16])
                swapping.check(result, image)
                answered.update([result["version"]] if target.dataset == "pets" else [])
    assert swapping.swaps >= 20


def served_by_both(first: PgnStage, second: VitStage) -> list[Target]:
    """What a gateway that follows the stages would pin rows to."""
    here, there = first.bank.snapshot, second.bank.snapshot
    named = [(name, version.digest) for name, entry in here.index.datasets.items() for version in entry.versions]
    return [Target(dataset=name, digest=digest) for name, digest in named if (name, digest) in there.held]


def row(request_id: str, target: Target, image: int) -> dict[str, Any]:
    return {"body": encode(Message(Request(id=request_id, targets=(target,)), SQUARES[[image]]))}


def through(first: PgnStage, second: VitStage, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [body(answer) for answer in second.answer([{"body": answer} for answer in first.answer(rows)])]


def test_a_row_is_answered_by_the_version_that_wrote_its_prompts(
    swapping: Swapping, stages: tuple[PgnStage, VitStage]
) -> None:
    """However much has changed in between: stage vit uses the head of the version that the message names."""
    first, second = stages
    (written,) = first.answer([row("a", Target(dataset="pets"), 0)])
    (target,) = decode(written).request.targets
    swapping.store.publish(swapping.versions[0])
    wait_until(lambda: second.bank.snapshot.index.revision == read_index(swapping.store.root).revision, "the change")
    (result,) = body(second.answer([{"body": written}])[0])["results"]
    assert result["version"] == str(target.digest)[:16] != second.bank.snapshot.find(Target(dataset="pets")).version
    swapping.check(result, 0)


def test_a_direct_row_without_a_version_is_answered_by_one(
    swapping: Swapping, stages: tuple[PgnStage, VitStage]
) -> None:
    """`/wfpredict` knows no digests: stage pgn decides, and stage vit, which may be behind, says if it cannot."""
    first, second = stages
    good = 0
    with swapping.in_background(0.1):
        while good < 100:
            (answer,) = through(first, second, [row("a", Target(dataset="pets"), 1)])
            if "error" in answer:
                assert answer["error"]["code"] == "service.not_ready"
            else:
                swapping.check(answer["results"][0], 1)
                good += 1
