"""A steady load of mixed requests whose every answer is checked against what the stages say in process."""

from __future__ import annotations

import http.client
import struct
import threading
import time
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from urllib.parse import urlsplit

import torch
from typing_extensions import Self

from pgn.backbone_spec import read_spec
from pgn.images import read_square
from pgn.index import read_index
from pgn.message import Answer, Message, Request, Target, encode
from pgn.settings import Settings
from pgn.stages.pgn_stage import PgnStage
from pgn.stages.vit_stage import VitStage
from pgn.store.local import LocalStore

BROKEN = 0
"""The status of a request whose connection broke."""
UNAVAILABLE = frozenset({503, 504})
_TOLERANCE = 1e-4  # rows of other batches share a pass: sums in another order
_PAUSE_S = 0.05


@dataclass(frozen=True)
class Question:
    """A request and what has to come of it: a status, and the probability of each class if it is good."""

    dataset: str
    body: bytes
    status: int = 200
    expected: Mapping[str, float] = field(default_factory=dict)


def good_questions(settings: Settings, datasets: Sequence[str], images: Sequence[bytes]) -> list[Question]:
    """Every image to every data set, with the answers of both stages called as plain functions."""
    cpu = torch.device("cpu")
    pgn, vit = PgnStage.load(settings, cpu), VitStage.load(settings, cpu)
    store = LocalStore(settings.store)
    preprocess = read_spec(store.backbone_folder(read_index(store.root).backbone))[0].preprocess
    questions = []
    for image in images:
        for dataset in datasets:
            request = Request(id="in-process", targets=(Target(dataset=dataset),), top_k=1000)
            pixels = read_square(image, preprocess.size, interpolation=preprocess.interpolation)
            (prompts,) = pgn.answer([{"body": encode(Message(request, pixels[None]))}])
            (body,) = vit.answer([{"body": prompts}])
            (result,) = Answer.model_validate_json(body).results
            expected = {each.label: each.probability for each in result.predictions}
            questions.append(Question(dataset, image, expected=expected))
    return questions


def bad_questions(dataset: str, image: bytes) -> list[Question]:
    """One of each kind of mistake, with the status that it deserves."""
    return [
        Question(dataset, b"", 400),
        Question(dataset, b"no image at all", 415),
        Question(dataset, image[:200], 422),
        Question(dataset + "x", image, 404),
        Question(dataset, _huge_png(), 413),
    ]


def _huge_png() -> bytes:
    """A PNG that announces 60,000 x 60,000 pixels and holds none."""
    chunks = (b"IHDR" + struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0), b"IDAT", b"IEND")
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) for chunk in chunks
    )


class Load:
    """Clients that ask all the time; a context manager.

    Args:
        url: Of the service.
        good: Asked in turn.
        bad: Each of them once in `every` questions.
        clients: Threads, each with a connection of its own.
        every: One question in so many is bad.

    Attributes:
        statuses: How often each status came for good questions; `BROKEN` where the connection broke.
        bad_statuses: The same for bad ones.
        wrong: What was answered and should not have been, a line each.
    """

    def __init__(
        self, url: str, good: Sequence[Question], bad: Sequence[Question] = (), *, clients: int = 8, every: int = 50
    ) -> None:
        parts = urlsplit(url)
        self._address = (parts.hostname or "", parts.port)
        self._good, self._bad, self._every = good, bad, every
        self._lock = threading.Lock()
        self._number = 0
        self._limit: int | None = None
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._ask_on) for _ in range(clients)]
        self.statuses: Counter[int] = Counter()
        self.bad_statuses: Counter[int] = Counter()
        self.wrong: list[str] = []

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stop.set()
        self.join()

    def run(self, count: int) -> None:
        """Ask so many questions and return."""
        self._limit = count
        for thread in self._threads:
            thread.start()
        self.join()

    def join(self) -> None:
        """Wait for all clients to end."""
        for thread in self._threads:
            thread.join()

    @property
    def asked(self) -> int:
        """Questions that have been answered somehow."""
        return self.statuses.total() + self.bad_statuses.total()

    @property
    def failed(self) -> int:
        """Good questions without a good answer."""
        return self.statuses.total() - self.statuses[200]

    def _next(self) -> Question | None:
        with self._lock:
            number = self._number
            if self._stop.is_set() or (self._limit is not None and number >= self._limit):
                return None
            self._number += 1
        if self._bad and number % self._every == 0:
            return self._bad[number // self._every % len(self._bad)]
        return self._good[number % len(self._good)]

    def _ask_on(self) -> None:
        connection = http.client.HTTPConnection(*self._address, timeout=60)
        while (question := self._next()) is not None:
            try:
                connection.request("POST", f"/v1/datasets/{question.dataset}/predict?top_k=1000", question.body)
                response = connection.getresponse()
                status, body = response.status, response.read()
            except (OSError, http.client.HTTPException):
                connection.close()
                status, body = BROKEN, b""
            self._note(question, status, body)
            if status in UNAVAILABLE or status == BROKEN:
                time.sleep(_PAUSE_S)  # as Retry-After asks, only less
        connection.close()

    def _note(self, question: Question, status: int, body: bytes) -> None:
        fault = _fault(question, status, body)
        with self._lock:
            (self.statuses if question.status == 200 else self.bad_statuses)[status] += 1
            if fault:
                self.wrong.append(fault)


def _fault(question: Question, status: int, body: bytes) -> str:
    if status == BROKEN or status in UNAVAILABLE:
        return ""
    if status != question.status:
        return f"{question.dataset}: {status}, not {question.status}: {body[:300]!r}"
    if status != 200:
        return ""
    (result,) = Answer.model_validate_json(body).results
    found = {each.label: each.probability for each in result.predictions}
    if result.dataset != question.dataset or found.keys() != question.expected.keys():
        return f"{question.dataset}: answered as {result.dataset} with {sorted(found)}"
    worst = max(abs(found[label] - question.expected[label]) for label in found)
    return f"{question.dataset}: off by {worst}" if worst > _TOLERANCE else ""
