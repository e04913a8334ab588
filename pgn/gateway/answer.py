"""From images and data set names to an answer: decode once, stage pgn, stage vit."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from pgn.backbone_spec import Preprocess
from pgn.errors import RequestError
from pgn.gateway.bodies import image_bytes
from pgn.gateway.datasets import Facts
from pgn.gateway.deadline import Deadline
from pgn.gateway.metrics import Metrics, timed
from pgn.gateway.replies import Reply, check_answer, check_features, merge, read_prompts
from pgn.gateway.split import split
from pgn.gateway.upstream import TorchServe
from pgn.images import Pixels, read_prompted, read_square
from pgn.message import CANARY_ID, Message, Request, Target, encode

_MESSAGES_AT_ONCE: Final = 2  # of one request: one at each stage

T = TypeVar("T")


class Answerer:
    """Answers requests through the two stages.

    Args:
        torchserve: The open connection to both stages.
        preprocess: The backbone's way from image to square.
        max_pixels: Largest image that is decoded.
        max_images: In one request.
        max_messages: Under way at once; below TorchServe's queue, which they would otherwise fill.
        threads: Where decoding runs; Pillow lets go of the interpreter while it works.
        metrics: Takes the time of each step.
    """

    def __init__(
        self,
        torchserve: TorchServe,
        preprocess: Preprocess,
        *,
        max_pixels: int,
        max_images: int,
        max_messages: int,
        threads: ThreadPoolExecutor,
        metrics: Metrics,
    ) -> None:
        self._torchserve = torchserve
        self._preprocess = preprocess
        self._max_pixels = max_pixels
        self._max_images = max_images
        self._places = asyncio.Semaphore(max_messages)
        self._threads = threads
        self._metrics = metrics

    async def decode(self, body: bytes, content_type: str, *, is_prompted: bool = False) -> list[Pixels]:
        """The images in a body at the backbone's size, in their order; several are decoded side by side.

        Args:
            body: Raw, multipart or JSON.
            content_type: Which of them.
            is_prompted: The images carry their prompts: not one pixel may be changed.

        Raises:
            RequestError: The body or an image is at fault; of several images the message says which.
        """
        read = self._read_prompted if is_prompted else self._read_square
        with timed(self._metrics.decode_seconds):
            return await _read_all(
                self._threads, read, partial(image_bytes, body, content_type, max_images=self._max_images)
            )

    def _read_square(self, image: bytes) -> Pixels:
        size, interpolation = self._preprocess.size, self._preprocess.interpolation
        return read_square(image, size, interpolation=interpolation, max_pixels=self._max_pixels)

    def _read_prompted(self, image: bytes) -> Pixels:
        return read_prompted(image, self._preprocess.size)

    async def answer(
        self, request: Request, facts: Sequence[Facts], images: Sequence[Pixels], deadline: Deadline
    ) -> bytes:
        """The answer's JSON: images in order, for each its data sets in order, or its features without any.

        Images that do not fit into one message travel in several; what comes back is one answer all the same.

        Args:
            request: What is asked; its targets name their digests.
            facts: Of its targets, in their order.
            images: As `decode` gives them.
            deadline: When the client will be gone.

        Raises:
            RequestError: The answer would be too large, or a stage found the request at fault.
            ServiceError: A stage gave no usable answer in time.
        """
        groups = split(request, facts, images)
        ask = self._through_stages if request.prompts_from == "stage" else self._through_stage_vit
        if len(groups) == 1:  # its bytes go to the client as they came
            async with self._places:
                return (await ask(request, np.stack(images), deadline))[0]
        turns = asyncio.Semaphore(_MESSAGES_AT_ONCE)

        async def answer_group(group: range) -> Reply:
            async with turns, self._places:
                with _naming(group, len(images)):
                    return (await ask(request, np.stack(images[group.start : group.stop]), deadline))[1]

        return merge(await _all(answer_group(group) for group in groups), groups)

    async def _through_stages(
        self, request: Request, images: NDArray[np.uint8], deadline: Deadline
    ) -> tuple[bytes, Reply]:
        with timed(self._metrics.stage_seconds.labels("pgn")):
            reply = await self._torchserve.predict_prompts(_to_send(Message(request, images)), deadline)
        prompts = read_prompts(reply, request)
        with timed(self._metrics.stage_seconds.labels("vit")):
            reply = await self._torchserve.predict_answer(_to_send(Message(request, images, prompts)), deadline)
        return reply, check_answer(reply, request, len(images))

    async def _through_stage_vit(
        self, request: Request, images: NDArray[np.uint8], deadline: Deadline
    ) -> tuple[bytes, Reply]:
        with timed(self._metrics.stage_seconds.labels("vit")):
            reply = await self._torchserve.predict_answer(_to_send(Message(request, images)), deadline)
        check = check_answer if request.targets else check_features
        return reply, check(reply, request, len(images))

    async def canary(self, target: Target, deadline: Deadline) -> None:
        """Answer a grey square through both stages for real; raises as `answer` does."""
        size = self._preprocess.size
        request = Request(id=CANARY_ID, targets=(target,), reply="prompts")
        await self._through_stages(request, np.full((1, size, size, 3), 128, np.uint8), deadline)


def _to_send(message: Message) -> bytes:
    """The message's bytes, with the moment at which they leave."""
    return encode(replace(message, request=message.request.model_copy(update={"sent_at": time.time()})))


async def _read_all(
    threads: ThreadPoolExecutor, read: Callable[[bytes], Pixels], find: Callable[[], list[bytes]]
) -> list[Pixels]:
    """What `read` makes of each image that `find` finds, all of it in `threads`."""
    loop = asyncio.get_running_loop()

    def begin() -> tuple[list[bytes], list[Pixels]]:
        images = find()
        return images, [read(images[0])] if len(images) == 1 else []  # the commonest case is one visit to a thread

    images, done = await loop.run_in_executor(threads, begin)
    if done:
        return done

    def read_one(place: int) -> Pixels:
        with _naming(range(place, place + 1), len(images)):
            return read(images[place])

    reading = [loop.run_in_executor(threads, read_one, place) for place in range(len(images))]
    # All are awaited, so that of several bad images it is always the first that is named.
    results = await asyncio.gather(*reading, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return [result for result in results if not isinstance(result, BaseException)]


async def _all(work: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """All results in order; the first error ends the rest."""
    tasks = [asyncio.create_task(each) for each in work]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()


@contextmanager
def _naming(places: range, total: int) -> Iterator[None]:
    """Inside, an error that the client can mend says which of its images it is about."""
    try:
        yield
    except RequestError as error:
        first, last = places.start + 1, places.stop
        which = f"image {first}" if first == last else f"images {first} to {last}"
        raise type(error)(f"{which} of {total}: {error.message}", hint=error.hint) from error
