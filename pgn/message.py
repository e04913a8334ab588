"""The message: one row between gateway and stages, a safetensors blob with the request in its metadata.

    gateway ──request+images──► stage pgn ──request+prompts (gateway asked) ─────────► gateway ─► stage vit ─► answer
                                          └─request+images+prompts (/wfpredict/pgn) ─────────────► stage vit ─► answer
    gateway ──request+prompted images ─────────────────────────────────────────────────────────► stage vit ─► answer

A message carries the request and its arrays, or an error and nothing else: inside the workflow errors are data,
because a stage that raises fails its neighbours. Stage vit's answer is JSON. See docs/message.md.
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from safetensors import SafetensorError
from safetensors.numpy import load, save
from typing_extensions import Self

from pgn.errors import MessageInvalid, PgnError, from_wire

SCHEMA: Final = 1
MAX_TARGETS: Final = 64


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


class Target(_Record):
    """A data set that the images are asked about; `digest` pins the version once it is decided."""

    dataset: str
    digest: str | None = None


class Request(_Record):
    """What is asked of every image of the row.

    `prompts_from` says where prompts come from: "stage", so stage pgn writes them, or "image", so they are rows of
    pixels below each image and stage vit is asked alone. Only then may there be no target: the answer is features.
    `reply` tells stage pgn what its answer holds: "prompts" alone (the gateway keeps the images), or "all", as the
    workflow's own executor hands stage vit nothing but stage pgn's answer.
    """

    schema_version: Literal[1] = Field(1, alias="schema")
    id: str = Field(max_length=128)
    targets: tuple[Target, ...] = Field(max_length=MAX_TARGETS)
    top_k: int = Field(5, ge=1, le=1000)
    reply: Literal["prompts", "all"] = "all"
    prompts_from: Literal["stage", "image"] = "stage"

    @model_validator(mode="after")
    def _somebody_is_asked(self) -> Self:
        if not self.targets and self.prompts_from == "stage":
            raise ValueError("no data set is asked")
        return self


@dataclass(frozen=True)
class Message:
    """One row.

    Attributes:
        request: What is asked.
        images: (M, S + R, S, 3) uint8 RGB at the backbone's size, R rows of pixels that carry prompts (0 but for
            prompted images), or None in an answer with prompts alone.
        prompts: For each target (M, K, D) float32 or float16; empty before stage pgn.
    """

    request: Request
    images: NDArray[np.uint8] | None = None
    prompts: tuple[NDArray[Any], ...] = ()

    def with_prompts(self, prompts: tuple[NDArray[Any], ...]) -> Message:
        """Stage pgn's answer: the prompts, and the images only where the request wants them passed on."""
        return replace(self, prompts=prompts, images=None if self.request.reply == "prompts" else self.images)


def encode(message: Message) -> bytes:
    """The message as bytes."""
    tensors: dict[str, NDArray[Any]] = {f"prompts.{i}": array for i, array in enumerate(message.prompts)}
    if message.images is not None:
        tensors["images"] = message.images
    tensors = {name: np.ascontiguousarray(array) for name, array in tensors.items()}
    return save(tensors, metadata={"request": message.request.model_dump_json(by_alias=True)})


def encode_error(error: PgnError, request_id: str) -> bytes:
    """A message that carries an error and nothing else."""
    return save({}, metadata={"error": json.dumps({**error.to_wire(), "request_id": request_id})})


def decode(data: bytes) -> Message:
    """Read a message.

    Raises:
        MessageInvalid: The bytes break the contract.
        PgnError: The message carries this error.
    """
    try:
        (length,) = struct.unpack_from("<Q", data)
        metadata = json.loads(data[8 : 8 + length])["__metadata__"]
        if "error" in metadata:
            raise from_wire(json.loads(metadata["error"]))
        request = Request.model_validate_json(metadata["request"])
        tensors = load(data)
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, f['loc'])) or 'request'}: {f['msg']}" for f in error.errors())
        raise MessageInvalid(f"the message's request is wrong: {faults}") from error
    except (struct.error, ValueError, KeyError, TypeError, SafetensorError, AttributeError, RecursionError) as error:
        raise MessageInvalid(f"{len(data)} bytes are no message: {error}") from error
    images = tensors.pop("images", None)
    prompts = tuple(tensors[f"prompts.{i}"] for i in range(len(tensors)) if f"prompts.{i}" in tensors)
    message = Message(request, images, prompts)
    _check(message, stray=len(tensors) - len(prompts))
    return message


def _check(message: Message, *, stray: int) -> None:
    images, prompts, targets = message.images, message.prompts, message.request.targets
    if stray:
        raise MessageInvalid("the message holds tensors other than images and prompts")
    if images is not None and not (
        images.dtype == np.uint8 and images.ndim == 4 and images.shape[1] >= images.shape[2] and images.shape[3] == 3
    ):
        raise MessageInvalid(f"images are {images.dtype} {images.shape}, not uint8 (M, S + R, S, 3)")
    if prompts and len(prompts) != len(targets):
        raise MessageInvalid(f"there are prompts for {len(prompts)} data sets; {len(targets)} were asked about")
    for array in prompts:
        if array.dtype not in (np.float32, np.float16) or array.ndim != 3:
            raise MessageInvalid(f"prompts are {array.dtype} {array.shape}, not float (M, K, D)")
        if images is not None and len(array) != len(images):
            raise MessageInvalid(f"there are prompts for {len(array)} of {len(images)} images")


class Prediction(_Record):
    """A class and its calibrated probability."""

    label: str
    probability: float


class Result(_Record):
    """What one data set's bundle says of one image: the `top_k` classes, most probable first."""

    image: int
    dataset: str
    version: str
    predictions: tuple[Prediction, ...]


class Answer(_Record):
    """Stage vit's answer to a row, and the body that clients read: images in order, for each its data sets in order."""

    request_id: str
    results: tuple[Result, ...]


class Features(_Record):
    """Stage vit's answer where no data set was asked: the frozen ViT's features of each image, (M, F)."""

    request_id: str
    features: tuple[tuple[float, ...], ...]
