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
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)
from safetensors import SafetensorError
from safetensors.numpy import load, save
from typing_extensions import Self

from pgn.errors import MessageInvalid, PgnError, from_wire

SCHEMA: Final = 1
MAX_TARGETS: Final = 64
CANARY_ID: Final = "(canary)"  # brackets: no client may give its request this id
"""Id of the gateway's own request, by which it sees whether the stages answer: its image is nobody's."""


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
    `ask` "state" makes a stage say what it holds instead (`StageState`): of the targets, or of everything without any.
    `embedding` adds the features that the head read to every result. `traceparent` is W3C's, for the stages' logs.
    `sent_at` (seconds since 1970, like `expires_at`) is when it left the gateway, so that a stage can tell its queue.
    A row whose `expires_at` (seconds since 1970, of this machine's clock) has passed is answered with an error and
    costs nothing: whoever asked has gone.
    """

    schema_version: Literal[1] = Field(1, alias="schema")
    id: str = Field(max_length=128)
    targets: tuple[Target, ...] = Field(max_length=MAX_TARGETS)
    top_k: int = Field(5, ge=1, le=1000)
    reply: Literal["prompts", "all"] = "all"
    prompts_from: Literal["stage", "image"] = "stage"
    ask: Literal["prediction", "state"] = "prediction"
    embedding: bool = False
    traceparent: str | None = Field(None, max_length=64)
    expires_at: float | None = None
    sent_at: float | None = None

    @model_validator(mode="after")
    def _somebody_is_asked(self) -> Self:
        if not self.targets and self.prompts_from == "stage" and self.ask == "prediction":
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
    """What one data set's bundle says of one image: the `top_k` classes, most probable first.

    Attributes:
        image: Place of the image in the request.
        unknown: The best probability is below the bundle's threshold, fitted on validation: most likely the image shows
            none of its classes. False where the bundle has no threshold.
        embedding: The frozen ViT's features under this data set's prompts, if they were asked for.
    """

    image: int
    dataset: str
    version: str
    predictions: tuple[Prediction, ...]
    unknown: bool = False
    embedding: tuple[float, ...] | None = None

    @model_serializer(mode="wrap")
    def _leave_out_what_was_not_asked(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields: dict[str, Any] = write(self)
        if self.embedding is None:
            del fields["embedding"]
        return fields


class Answer(_Record):
    """Stage vit's answer to a row, and the body that clients read: images in order, for each its data sets in order."""

    request_id: str
    results: tuple[Result, ...]


class HeldVersion(_Record):
    """A served version as one stage holds it.

    Attributes:
        state: "ready", or "refused" for the reason in `last_error`.
        tier: Where its weights lie: "device" (a GPU's memory) or "host" (one memory-mapped copy for all processes).
        bytes: Of its tensors in that tier.
        age_s: Since this stage loaded it.
    """

    dataset: str
    digest: str
    state: Literal["ready", "refused"]
    tier: Literal["device", "host"]
    bytes: int
    age_s: float
    last_error: str | None = None


class StageState(_Record):
    """Answer to `ask` "state": what a stage holds, and how its server fares.

    Attributes:
        revision: Of the index that this stage serves.
        versions: Those that were asked about.
        server_threads: Of the model server's process, the parent of this one; TorchServe leaks them when it is ill.
        server_rss_bytes: Its resident memory.
    """

    schema_version: Literal[1] = Field(1, alias="schema")
    request_id: str
    stage: Literal["pgn", "vit"]
    revision: int
    device: str
    versions: tuple[HeldVersion, ...]
    server_threads: int
    server_rss_bytes: int


class Features(_Record):
    """Stage vit's answer where no data set was asked: the frozen ViT's features of each image, (M, F)."""

    request_id: str
    features: tuple[tuple[float, ...], ...]
