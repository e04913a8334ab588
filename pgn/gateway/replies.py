"""What the stages say, checked to be this request's answer before anybody reads it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray
from pydantic import ValidationError

from pgn.errors import MessageInvalid, StageFailed, from_wire
from pgn.message import Answer, Features, Request, Result, decode

Reply = Answer | Features


def merge(replies: Sequence[Reply], groups: Sequence[range]) -> bytes:
    """One body out of those for groups of images, each of which counts its images from 0."""
    features: list[tuple[float, ...]] = []
    results: list[Result] = []
    for reply, group in zip(replies, groups, strict=True):
        if isinstance(reply, Features):
            features.extend(reply.features)
        else:
            results.extend(result.model_copy(update={"image": result.image + group.start}) for result in reply.results)
    request_id = replies[0].request_id
    merged: Reply = (
        Features(request_id=request_id, features=tuple(features))
        if features
        else Answer(request_id=request_id, results=tuple(results))
    )
    return merged.model_dump_json().encode()


def read_prompts(reply: bytes, request: Request) -> tuple[NDArray[Any], ...]:
    """Stage pgn's prompts for each target; raises StageFailed if these are not this request's, PgnError as it says."""
    try:
        message = decode(reply)
    except MessageInvalid as error:  # whoever broke the contract, it was not the client
        raise StageFailed(f"stage pgn: {error.message}") from error
    if message.request.id != request.id or len(message.prompts) != len(request.targets):
        raise StageFailed("stage pgn answered another request")
    return message.prompts


def check_answer(reply: bytes, request: Request, num_images: int) -> Answer:
    """Stage vit's answer; raises StageFailed if it is not this request's, PgnError as the stage says."""
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
    return answer


def check_features(reply: bytes, request: Request, num_images: int) -> Features:
    """Stage vit's features; raises as `check_answer` does."""
    try:
        found = Features.model_validate_json(reply)
    except ValidationError as error:
        _raise_carried(reply)
        raise StageFailed(f"stage vit gave {len(reply)} bytes that are no features") from error
    if found.request_id != request.id or len(found.features) != num_images:
        raise StageFailed("stage vit answered another request")
    return found


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
