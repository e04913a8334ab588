"""What the tests of both stages share: messages of the toy images, and answers as Python reads them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from pgn.images import read_square
from pgn.message import Message, Request, Target, encode
from pgn.stages.rows import Row
from tests.toys import make_images

SQUARES = np.stack([read_square(image, 32, interpolation="bicubic") for image in make_images(8)])


def ask(
    request_id: str,
    datasets: Sequence[str],
    images: Sequence[int] = (0,),
    *,
    reply: Literal["prompts", "all"] = "all",
    top_k: int = 5,
) -> Row:
    """A row that asks some data sets about some of the toy images."""
    targets = tuple(Target(dataset=dataset) for dataset in datasets)
    request = Request(id=request_id, targets=targets, reply=reply, top_k=top_k)
    return {"body": bytearray(encode(Message(request, images=SQUARES[list(images)])))}


def body(answer: bytes) -> dict[str, Any]:
    """Stage vit's answer."""
    fields: dict[str, Any] = json.loads(answer)
    return fields


def probabilities(result: dict[str, Any]) -> dict[str, float]:
    """A result's predictions by label."""
    return {each["label"]: each["probability"] for each in result["predictions"]}
