"""How the images of one request are divided into messages, so that no message and no answer is too large to carry."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from pgn.errors import RequestTooLarge
from pgn.gateway.datasets import Facts
from pgn.images import Pixels
from pgn.message import MAX_TARGETS, Request

# TorchServe carries 16 MiB each way (config.properties), but slowly: its cost grows with the square of an answer.
_MESSAGE_BYTES: Final = 4 * 2**20
# Forward passes of one message. Its neighbours in the batch wait for them; one image with all targets always fits.
_MESSAGE_FORWARDS: Final = MAX_TARGETS
_LARGEST_ANSWER_BYTES: Final = 32 * 2**20
# JSON around a class, around a result, and for each feature; generous, as an answer too large costs the request.
_CLASS_BYTES: Final = 60
_RESULT_BYTES: Final = 250
_FEATURE_BYTES: Final = 26
_UNKNOWN_FEATURES: Final = 4096  # of the bare backbone, whose width only the stage knows


def split(request: Request, facts: Sequence[Facts], images: Sequence[Pixels]) -> list[range]:
    """Which images travel together: consecutive ones of one shape, for each message a range of their places.

    Args:
        request: What is asked.
        facts: Of its targets, in their order.
        images: (S + R, S, 3) each.

    Raises:
        RequestTooLarge: The whole answer would be too large, whatever the messages.
    """
    one_answer = answer_bytes(request, facts)
    if len(images) * one_answer > _LARGEST_ANSWER_BYTES:
        raise RequestTooLarge(
            f"the answer could have {len(images) * one_answer:,} bytes; the limit is {_LARGEST_ANSWER_BYTES:,}",
            hint="ask about fewer images, data sets or classes (top_k) at once",
        )
    prompt_bytes = sum(each.prompt_bytes for each in facts)
    most = max(1, _MESSAGE_FORWARDS // max(1, len(facts)))
    groups: list[range] = []
    for place, image in enumerate(images):
        fits = max(image.nbytes + prompt_bytes, one_answer) * (len(groups[-1]) + 1) if groups else 0
        if groups and image.shape == images[place - 1].shape and len(groups[-1]) < most and fits <= _MESSAGE_BYTES:
            groups[-1] = range(groups[-1].start, place + 1)
        else:
            groups.append(range(place, place + 1))
    return groups


def answer_bytes(request: Request, facts: Sequence[Facts]) -> int:
    """At most so many bytes answer for one image."""
    if not facts:
        return _FEATURE_BYTES * _UNKNOWN_FEATURES
    return sum(
        _RESULT_BYTES
        + min(request.top_k, len(each.classes)) * (_CLASS_BYTES + each.label_bytes)
        + (_FEATURE_BYTES * each.num_features if request.embedding else 0)
        for each in facts
    )
