"""Decode once, stage pgn, stage vit: and only this request's own answer is handed on."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np
import pytest
from aiohttp import web

from pgn.backbone_spec import Preprocess
from pgn.errors import EmptyBody, NotAnImage, PromptedImageInvalid, StageFailed, UnreadableImage
from pgn.gateway.answer import Answerer
from pgn.gateway.datasets import Facts
from pgn.gateway.deadline import Deadline
from pgn.gateway.metrics import Metrics
from pgn.gateway.upstream import TorchServe
from pgn.message import Answer, Features, Message, Request, Target
from tests.pgn.gateway.scripted import ScriptedTorchServe, answer_prompts, carry, lose, make_answer, say
from tests.pgn.gateway.test_forms import form
from tests.toys import make_images

SIZE = 8
TARGETS = (Target(dataset="birds", digest="a" * 64), Target(dataset="boats", digest="b" * 64))
REQUEST = Request(id="r1", targets=TARGETS, reply="prompts")
IMAGES = list(np.zeros((2, SIZE, SIZE, 3), np.uint8))
FACTS = [Facts(("a", "b", "c"), 1, "", None, prompt_bytes=32, num_features=4, label_bytes=9)] * 2
HONEST = make_answer(REQUEST, Message(REQUEST, np.stack(IMAGES)))
T = TypeVar("T")


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    """Where decoding runs."""
    with ThreadPoolExecutor(2) as pool:
        yield pool


def with_answerer(
    scripted: ScriptedTorchServe, threads: ThreadPoolExecutor, work: Callable[[Answerer], Awaitable[T]]
) -> T:
    """What `work` does with an answerer in front of the scripted stages."""

    async def run() -> T:
        upstream = TorchServe(
            scripted.config, count_retry=lambda _: None, count_lost=lambda _: None, on_missing=lambda: None
        )
        async with upstream:
            answerer = Answerer(
                upstream,
                Preprocess(size=SIZE, interpolation="bilinear", mean=(0, 0, 0), std=(1, 1, 1)),
                max_pixels=10**6,
                max_images=100,
                max_messages=4,
                threads=threads,
                metrics=Metrics(),
            )
            return await work(answerer)

    return asyncio.run(run())


def through_stages(scripted: ScriptedTorchServe, threads: ThreadPoolExecutor) -> bytes:
    """What the gateway hands on for two images and two data sets."""

    async def work(answerer: Answerer) -> bytes:
        await answerer.canary(TARGETS[0], Deadline(10))
        return await answerer.answer(REQUEST, FACTS, IMAGES, Deadline(10))

    return with_answerer(scripted, threads, work)


def decode(
    scripted: ScriptedTorchServe, threads: ThreadPoolExecutor, images: list[bytes], *, is_prompted: bool = False
) -> list[np.ndarray]:
    """The pixels of the images in a form."""
    body, content_type = form([("image", image) for image in images])
    return with_answerer(
        scripted, threads, lambda answerer: answerer.decode(body, content_type, is_prompted=is_prompted)
    )


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


def test_images_keep_their_order_however_long_each_takes(
    scripted: ScriptedTorchServe, threads: ThreadPoolExecutor
) -> None:
    """They are decoded side by side; a large one must not end up behind a small one."""
    large, small = make_images(1, 900)[0], make_images(1, 10, seed=1)[0]
    alone = [decode(scripted, threads, [image])[0] for image in (large, small, large)]
    together = decode(scripted, threads, [large, small, large])
    assert np.array_equal(np.stack(together), np.stack(alone))


@pytest.mark.parametrize(
    ("bad", "error"), [(b"text", NotAnImage), (make_images(1)[0][:90], UnreadableImage), (b"", EmptyBody)]
)
def test_a_bad_image_among_several_is_named(
    scripted: ScriptedTorchServe, threads: ThreadPoolExecutor, bad: bytes, error: type[Exception]
) -> None:
    """The first of them, whichever was found first; alone it needs no number."""
    good = make_images(1, 200)[0]
    for _ in range(5):
        with pytest.raises(error, match="image 3 of 5"):
            decode(scripted, threads, [good, good, bad, good, bad])
    with pytest.raises(error) as raised:
        decode(scripted, threads, [bad])
    assert " of 1" not in str(raised.value)


def test_a_prompted_image_among_several_is_named_too(scripted: ScriptedTorchServe, threads: ThreadPoolExecutor) -> None:
    """The other way to read images has the same manners."""
    good = make_images(2)
    with pytest.raises(PromptedImageInvalid, match="image 1 of 2"):
        decode(scripted, threads, good, is_prompted=True)


def test_what_travels_in_several_messages_comes_back_as_one_answer(
    scripted: ScriptedTorchServe, threads: ThreadPoolExecutor
) -> None:
    """70 images about two data sets: the numbers of the images are those of the request, in order."""
    images = [np.full((SIZE, SIZE, 3), 3 * i, np.uint8) for i in range(70)]
    body = with_answerer(scripted, threads, lambda answerer: answerer.answer(REQUEST, FACTS, images, Deadline(10)))
    assert scripted.count("vit") == 3
    results = Answer.model_validate_json(body).results
    assert [(result.image, result.dataset) for result in results] == [
        (i, target.dataset) for i in range(70) for target in TARGETS
    ]
    brightness = [result.predictions[0].probability for result in results[::2]]
    assert brightness == [pytest.approx(3 * i / 255) for i in range(70)]


def test_features_of_images_of_different_heights_come_back_in_order(
    scripted: ScriptedTorchServe, threads: ThreadPoolExecutor
) -> None:
    """Prompted images travel apart by height; the answer does not show it."""
    request = Request(id="r1", targets=(), prompts_from="image")
    images = [np.zeros((height, SIZE, 3), np.uint8) for height in (8, 9, 10, 10, 8)]
    body = with_answerer(scripted, threads, lambda answerer: answerer.answer(request, [], images, Deadline(10)))
    assert [row[1] for row in Features.model_validate_json(body).features] == [8, 9, 10, 10, 8]


def test_an_error_of_a_stage_says_which_images_it_is_about(
    scripted: ScriptedTorchServe, threads: ThreadPoolExecutor
) -> None:
    """And the messages beside it end with it: nobody waits for an answer that is not to be."""
    request = Request(id="r1", targets=(), prompts_from="image")
    images = [np.zeros((height, SIZE, 3), np.uint8) for height in (8, 9, 9)]
    scripted.script["vit"] += [lose, carry(PromptedImageInvalid("no whole patches"), as_json=True)]
    with pytest.raises(PromptedImageInvalid, match="of 3: no whole patches"):
        with_answerer(scripted, threads, lambda answerer: answerer.answer(request, [], images, Deadline(60)))


def test_no_more_messages_are_under_way_than_torchserves_queue_is_meant_to_hold(
    scripted: ScriptedTorchServe, threads: ThreadPoolExecutor
) -> None:
    """However many messages the requests need: four is the limit here, and all are answered."""
    most = now = 0

    async def count(request: web.Request, body: bytes) -> web.StreamResponse:
        nonlocal most, now
        now += 1
        most = max(most, now)
        await asyncio.sleep(0)
        response = await answer_prompts(request, body)
        now -= 1
        return response

    scripted.script["pgn"] += [count] * 40
    images = [np.zeros((SIZE, SIZE, 3), np.uint8)] * 100

    async def work(answerer: Answerer) -> list[bytes]:
        return await asyncio.gather(*(answerer.answer(REQUEST, FACTS, images, Deadline(60)) for _ in range(10)))

    assert len(with_answerer(scripted, threads, work)) == 10
    assert scripted.count("pgn") == 40
    assert 1 <= most <= 4
