"""Rows: what a model server hands to a stage, read into messages, and what became of each.

A row is a dictionary. The gateway sends the bytes of a message under "body"; a person who calls the workflow directly
sends multipart fields `image`, `dataset` and perhaps `top_k`, or JSON with the image in base64. An error stays with
its row: `Batch.guard` is the one place in the stages that catches everything.
"""

from __future__ import annotations

import base64
import binascii
import logging
import math
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

from pgn.backbone_spec import Preprocess
from pgn.errors import (
    DeadlineExceeded,
    EmptyBody,
    MalformedRequest,
    MessageInvalid,
    PgnError,
    RequestTooLarge,
    StageFailed,
)
from pgn.images import read_square
from pgn.message import CANARY_ID, Message, Request, Target, decode
from pgn.stages.metrics import Asked, StageMetrics

Row = Mapping[str, Any]

MAX_ANSWER_BYTES: Final = 15 * 2**20  # below TorchServe's max_response_size: an answer above that kills the worker

_log = logging.getLogger(__name__)


def read_message(row: Row) -> Message:
    """The message under "body".

    Raises:
        EmptyBody: Nothing is there.
        PgnError: The bytes are no message, or the message carries this error.
    """
    body = row.get("body")
    if not isinstance(body, (bytes, bytearray)) or not body:
        raise EmptyBody("the body has 0 bytes")
    return decode(bytes(body))


def read_row(row: Row, preprocess: Preprocess, *, max_pixels: int, top_k: int) -> Message:
    """The message in a row, or one made of what a person sent.

    Args:
        row: A message's bytes, a JSON object or a string under "body"; without "body", form fields.
        preprocess: How an image becomes the backbone's square.
        max_pixels: Largest width times height that is decoded.
        top_k: Classes in the answer, if the person does not say.

    Raises:
        MalformedRequest: A field is missing or wrong.
        PgnError: As `read_message` and `read_square` raise.
    """
    body = row.get("body")
    if isinstance(body, Mapping):
        fields = {**body, "image": _from_base64(body.get("image"))}
    elif isinstance(body, (bytes, bytearray)) or not row:
        return _read_message_or_json(row)
    elif body is not None:
        raise MalformedRequest(f"the body is a {type(body).__name__}, not an object with 'image' and 'dataset'")
    else:
        fields = dict(row)
    return _read_fields(fields, preprocess, max_pixels, top_k)


def _read_message_or_json(row: Row) -> Message:
    try:
        return read_message(row)
    except MessageInvalid as error:
        # TorchServe hands JSON that it cannot parse on as bytes.
        if bytes(row["body"]).lstrip().startswith(b"{"):
            raise MalformedRequest("the body starts like JSON and is none") from error
        raise


def _read_fields(fields: Mapping[str, Any], preprocess: Preprocess, max_pixels: int, top_k: int) -> Message:
    for name in ("image", "dataset"):
        if name not in fields:
            raise MalformedRequest(f"the field '{name}' is missing; there are {', '.join(sorted(fields)) or 'none'}")
    image = fields["image"]
    if isinstance(image, str):
        raise MalformedRequest("the field 'image' is text, not the bytes of an image")
    request = Request(
        id=uuid.uuid4().hex,
        targets=(Target(dataset=_text(fields["dataset"], "dataset")),),
        top_k=_read_top_k(fields.get("top_k", top_k)),
    )
    square = read_square(bytes(image), preprocess.size, interpolation=preprocess.interpolation, max_pixels=max_pixels)
    return Message(request, images=square[None])


def _read_top_k(value: Any) -> int:
    text = str(value) if isinstance(value, int) and not isinstance(value, bool) else _text(value, "top_k")
    if not text.isascii() or not text.isdigit() or not 1 <= int(text[:5]) <= 1000:
        raise MalformedRequest(f"top_k is {text[:20]!r}, not a number from 1 to 1000")
    return int(text)


def _text(value: Any, name: str) -> str:
    try:
        text = value if isinstance(value, str) else bytes(value).decode()
    except (TypeError, ValueError) as error:
        raise MalformedRequest(f"the field '{name}' is no text") from error
    return text.strip()


def _from_base64(value: Any) -> bytes:
    if not isinstance(value, str):
        raise MalformedRequest("the JSON object has no string 'image'")
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError) as error:
        raise MalformedRequest(f"'image' is not base64: {error}") from error


def check_size(answer: bytes) -> bytes:
    """The answer itself; raises RequestTooLarge if the server could not carry it."""
    if len(answer) > MAX_ANSWER_BYTES:
        raise too_large(len(answer))
    return answer


def too_large(size: int) -> RequestTooLarge:
    """The error for a request whose answer has `size` bytes."""
    return RequestTooLarge(
        f"the answer would have {size:,} bytes; the limit is {MAX_ANSWER_BYTES:,}",
        hint="ask about fewer images or data sets at once",
    )


class Batch:
    """The rows of one call: their messages, and the errors of those that have failed.

    Args:
        rows: What the server handed over.
        read: Reads one row, and may raise.
    """

    def __init__(self, rows: Sequence[Row], read: Callable[[Row], Message]) -> None:
        self._began = time.perf_counter()
        self._began_at = time.time()
        self._size = len(rows)
        self._messages: dict[int, Message] = {}
        self._errors: dict[int, PgnError] = {}
        for number, row in enumerate(rows):
            with self.guard(number):
                message = self._messages[number] = read(row)
                _check_time(message.request)

    def messages(self) -> dict[int, Message]:
        """The messages of the rows that have not failed, by row number."""
        return {number: message for number, message in self._messages.items() if number not in self._errors}

    def predictions(self) -> dict[int, Message]:
        """Those of `messages` that something has to be computed for."""
        return {number: message for number, message in self.messages().items() if message.request.ask == "prediction"}

    def request_id(self, number: int) -> str:
        """The id that a row came with, or one made for its answer."""
        if number in self._messages:
            return self._messages[number].request.id
        error = self._errors[number]
        error.request_id = error.request_id or uuid.uuid4().hex
        return error.request_id

    @contextmanager
    def guard(self, *numbers: int) -> Iterator[None]:
        """Whatever is raised inside becomes the error of these rows and of no other."""
        try:
            yield
        except PgnError as error:
            self._errors |= dict.fromkeys(numbers, error)
        except Exception:
            requests = [self._messages[number].request.id for number in numbers if number in self._messages]
            _log.exception("stage failed: requests %s", ", ".join(requests) or "unknown")
            failure = StageFailed("a stage of the workflow failed on this request")
            self._errors |= dict.fromkeys(numbers, failure)

    def answers(
        self, write: Callable[[int, Message], bytes], write_error: Callable[[PgnError, str], bytes]
    ) -> list[bytes]:
        """One answer a row, in order; a row that cannot be written becomes an error too."""
        written: dict[int, bytes] = {}
        for number, message in self.messages().items():
            with self.guard(number):
                written[number] = check_size(write(number, message))
        for number, error in self._errors.items():
            written[number] = write_error(error, self.request_id(number))
        return [written[number] for number in range(self._size)]

    def count(self, metrics: StageMetrics) -> None:
        """Tell `metrics` of the whole batch; to be called when it is answered."""
        requests = [message.request for message in self._messages.values()]
        metrics.answered(
            [(self._asked(number), self._outcome(number)) for number in range(self._size)],
            images=sum(
                len(message.images)
                for number, message in self._messages.items()
                if message.images is not None and self._asked(number) == "prediction"
            ),
            seconds=time.perf_counter() - self._began,
            queued_s=[max(0.0, self._began_at - request.sent_at) for request in requests if request.sent_at],
        )

    def _asked(self, number: int) -> Asked:
        if number not in self._messages:
            return "unreadable"
        request = self._messages[number].request
        return "canary" if request.id == CANARY_ID else request.ask

    def _outcome(self, number: int) -> str:
        return self._errors[number].code if number in self._errors else "ok"

    def log(self, versions: Iterable[str]) -> None:
        """One line about the whole batch, which the given versions answered."""
        if not _log.isEnabledFor(logging.INFO):
            return
        messages = self._messages.values()
        traces = [message.request.traceparent for message in messages if message.request.traceparent]
        _log.info(
            "batch answered",
            extra={
                "rows": self._size,
                "images": sum(0 if message.images is None else len(message.images) for message in messages),
                "ms": round(1000 * (time.perf_counter() - self._began), 1),
                "versions": sorted(set(versions)),
                "requests": [self.request_id(number) for number in range(self._size)],
                "traceparents": traces or None,
                "failed": {self.request_id(number): error.code for number, error in self._errors.items()} or None,
            },
        )


def _check_time(request: Request) -> None:
    late_s = time.time() - (request.expires_at or math.inf)
    if late_s > 0:
        raise DeadlineExceeded(f"the request's time ran out {1000 * late_s:.0f} ms before it could be computed")
