"""Decode once, stage pgn, stage vit: and only this request's own answer is handed on."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from pgn.backbone_spec import Preprocess
from pgn.errors import StageFailed
from pgn.gateway.answer import Answerer
from pgn.gateway.deadline import Deadline
from pgn.gateway.metrics import Metrics
from pgn.gateway.upstream import TorchServe
from pgn.message import Answer, Message, Request, Target
from tests.pgn.gateway.scripted import ScriptedTorchServe, make_answer, say

SIZE = 8
TARGETS = (Target(dataset="birds", digest="a" * 64), Target(dataset="boats", digest="b" * 64))
REQUEST = Request(id="r1", targets=TARGETS, reply="prompts")
IMAGES = np.zeros((2, SIZE, SIZE, 3), np.uint8)
HONEST = make_answer(REQUEST, Message(REQUEST, IMAGES))


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    """Where decoding runs."""
    with ThreadPoolExecutor(1) as pool:
        yield pool


def through_stages(scripted: ScriptedTorchServe, threads: ThreadPoolExecutor) -> bytes:
    """What the gateway hands on for two images and two data sets."""

    async def run() -> bytes:
        upstream = TorchServe(scripted.config, count_retry=lambda _: None, on_missing=lambda: None)
        preprocess = Preprocess(size=SIZE, interpolation="bilinear", mean=(0, 0, 0), std=(1, 1, 1))
        async with upstream:
            answerer = Answerer(upstream, preprocess, 1000, threads, Metrics())
            await answerer.canary(TARGETS[0], Deadline(10))
            return await answerer.through_stages(REQUEST, IMAGES, Deadline(10))

    return asyncio.run(run())


def test_the_stages_bytes_are_handed_on_as_they_are(scripted: ScriptedTorchServe, threads: ThreadPoolExecutor) -> None:
    """Parsing only checks them; writing them anew would cost time and could change a number."""
    spaced = HONEST.model_dump_json(indent=3).encode()
    scripted.script["vit"].append(say(spaced))
    assert through_stages(scripted, threads) == spaced


@pytest.mark.parametrize(
    "changed",
    [
        HONEST.model_copy(update={"request_id": "r2"}),
        HONEST.model_copy(update={"results": HONEST.results[:-1]}),
        HONEST.model_copy(update={"results": HONEST.results[::-1]}),
        HONEST.model_copy(update={"results": (*HONEST.results, HONEST.results[0])}),
        HONEST.model_copy(
            update={"results": (HONEST.results[0].model_copy(update={"version": "c" * 16}), *HONEST.results[1:])}
        ),
    ],
)
def test_an_answer_that_is_not_what_was_asked_is_refused(
    scripted: ScriptedTorchServe, threads: ThreadPoolExecutor, changed: Answer
) -> None:
    """Another request's, another version's, one too few or in another order: each would look right."""
    scripted.script["vit"].append(say(changed.model_dump_json().encode()))
    with pytest.raises(StageFailed, match="another request"):
        through_stages(scripted, threads)
