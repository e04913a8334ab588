"""From an image and data set names to an answer: decode once, stage pgn, stage vit."""

from __future__ import annotations

import asyncio
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from pgn.backbone_spec import Preprocess
from pgn.errors import MessageInvalid, StageFailed, from_wire
from pgn.gateway.bodies import image_bytes
from pgn.gateway.deadline import Deadline
from pgn.gateway.metrics import Metrics, timed
from pgn.gateway.upstream import TorchServe
from pgn.images import Pixels, read_prompted, read_square
from pgn.message import Answer, Features, Message, Request, Target, decode, encode


@dataclass(frozen=True)
class Answerer:
    """Answers requests through the two stages.

    Attributes:
        torchserve: The open connection to both stages.
        preprocess: The backbone's way from image to square.
        max_pixels: Largest image that is decoded.
        threads: Where decoding runs; Pillow lets go of the interpreter while it works.
        metrics: Takes the time of each step.
    """

    torchserve: TorchServe
    preprocess: Preprocess
    max_pixels: int
    threads: ThreadPoolExecutor
    metrics: Metrics

    async def answer(self, request: Request, body: bytes, content_type: str, deadline: Deadline) -> bytes:
        """The answer's JSON for the one image in `body`.

        Raises:
            RequestError: The body or the image is at fault.
            PgnError: A stage said so.
            ServiceError: A stage gave no usable answer in time.
        """
        with timed(self.metrics.decode_seconds):
            loop = asyncio.get_running_loop()
            pixels = await loop.run_in_executor(self.threads, self._decode, body, content_type)
        return await self.through_stages(request, pixels[None], deadline)

    def _decode(self, body: bytes, content_type: str) -> Pixels:
        return read_square(
            image_bytes(body, content_type),
            self.preprocess.size,
            interpolation=self.preprocess.interpolation,
            max_pixels=self.max_pixels,
        )

    async def answer_prompted(self, request: Request, body: bytes, content_type: str, deadline: Deadline) -> bytes:
        """The same for an image that carries its prompts; stage pgn is not asked."""
        with timed(self.metrics.decode_seconds):
            loop = asyncio.get_running_loop()
            pixels = await loop.run_in_executor(self.threads, self._decode_prompted, body, content_type)
        with timed(self.metrics.stage_seconds.labels("vit")):
            reply = await self.torchserve.predict_answer(encode(Message(request, pixels[None])), deadline)
        if request.targets:
            _check_answer(reply, request, num_images=1)
        else:
            _check_features(reply, request, num_images=1)
        return reply

    def _decode_prompted(self, body: bytes, content_type: str) -> Pixels:
        return read_prompted(image_bytes(body, content_type), self.preprocess.size)

    async def through_stages(self, request: Request, images: NDArray[np.uint8], deadline: Deadline) -> bytes:
        """The answer's JSON for (M, S, S, 3) images at the backbone's size; raises as `answer` does."""
        with timed(self.metrics.stage_seconds.labels("pgn")):
            reply = await self.torchserve.predict_prompts(encode(Message(request, images)), deadline)
        prompts = _read_prompts(reply, request)
        with timed(self.metrics.stage_seconds.labels("vit")):
            reply = await self.torchserve.predict_answer(encode(Message(request, images, prompts)), deadline)
        _check_answer(reply, request, len(images))
        return reply

    async def canary(self, target: Target, deadline: Deadline) -> None:
        """Answer a grey square through both stages for real; raises as `answer` does."""
        size = self.preprocess.size
        request = Request(id="canary", targets=(target,), reply="prompts")
        await self.through_stages(request, np.full((1, size, size, 3), 128, np.uint8), deadline)


def _read_prompts(reply: bytes, request: Request) -> tuple[NDArray[Any], ...]:
    try:
        message = decode(reply)
    except MessageInvalid as error:  # whoever broke the contract, it was not the client
        raise StageFailed(f"stage pgn: {error.message}") from error
    if message.request.id != request.id or len(message.prompts) != len(request.targets):
        raise StageFailed("stage pgn answered another request")
    return message.prompts


def _check_answer(reply: bytes, request: Request, num_images: int) -> None:
    # The bytes go to the client as they are; parsing them only proves that they are this request's answer.
    try:
        answer = Answer.model_validate_json(reply)
    except ValidationError as error:
        _raise_carried(reply)
        raise StageFailed(f"stage vit gave {len(reply)} bytes that are no answer") from error
    given = [(result.image, result.dataset, result.version) for result in answer.results]
    wanted = [
        (image, target.dataset, (target.digest or "")[:16]) for image in range(num_images) for target in request.targets
    ]
    if answer.request_id != request.id or given != wanted:
        raise StageFailed("stage vit answered another request")


def _check_features(reply: bytes, request: Request, num_images: int) -> None:
    try:
        found = Features.model_validate_json(reply)
    except ValidationError as error:
        _raise_carried(reply)
        raise StageFailed(f"stage vit gave {len(reply)} bytes that are no features") from error
    if found.request_id != request.id or len(found.features) != num_images:
        raise StageFailed("stage vit answered another request")


def _raise_carried(reply: bytes) -> None:
    try:
        fields = json.loads(reply)["error"]
    except (ValueError, KeyError, TypeError):
        return
    if not isinstance(fields, dict):
        return
    error = from_wire(fields)
    if isinstance(error, MessageInvalid):
        raise StageFailed(f"stage vit: {error.message}")
    raise error
