"""Stage pgn: images in, prompts out. One forward pass for each version asked about, over the images of all rows.

The versions of a batch are passed one after the other: stacking their weights saves little, and nothing where every row
names another (docs/results/bank.md).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pgn.backbone_spec import Preprocess, read_spec
from pgn.bundle import Bundle
from pgn.errors import MessageInvalid
from pgn.index import Index, read_index
from pgn.message import CANARY_ID, Message, encode, encode_error
from pgn.method.generator import Generator, PromptGenerator, load_generator
from pgn.method.pixels import Normalise
from pgn.method.projection import PatchProjection, load_projection
from pgn.settings import Settings
from pgn.stages.bank import Bank, Held, Snapshot
from pgn.stages.drift import DriftMonitor
from pgn.stages.metrics import StageMetrics
from pgn.stages.rows import MAX_ANSWER_BYTES, Batch, Row, read_row, too_large
from pgn.stages.state import describe
from pgn.stages.tensors import in_pieces, stack
from pgn.store.local import LocalStore

_SHOW_DRIFT_EVERY_S: Final = 5.0  # the canary's pace; of 500 versions it takes a few hundredths of a second

Place = tuple[int, int]
"""Row number, and which of the row's targets."""


@dataclass(frozen=True)
class _Plan:
    """The versions that one row's targets stand for, in their order."""

    held: tuple[Held[Generator], ...]
    pixels: NDArray[Any]
    is_canary: bool


class PgnStage:
    """Writes prompts with the prompt bank.

    Args:
        bank: The generators of all data sets.
        preprocess: The backbone's; images sent by a person are decoded to it.
        device: Where the bank lives.
        max_pixels: Largest image that is decoded.
        top_k: Classes in an answer, if a person does not say.
        metrics: Takes what is answered, and the drift.

    Attributes:
        bank: What is served; `bank.follow` keeps it so.
        drift: How far each version's token usage has moved from its training profile.
    """

    def __init__(
        self,
        bank: Bank[Generator],
        preprocess: Preprocess,
        *,
        device: torch.device,
        max_pixels: int,
        top_k: int,
        metrics: StageMetrics | None = None,
    ) -> None:
        self.bank = bank
        self._preprocess = preprocess
        self._normalise = Normalise(preprocess).to(device)
        self._device = device
        self._max_pixels = max_pixels
        self._top_k = top_k
        self._metrics = metrics or StageMetrics("pgn")
        self._show_drift_at = 0.0
        self.drift = DriftMonitor()

    @classmethod
    def load(cls, settings: Settings, device: torch.device) -> PgnStage:
        """The stage for a model store; raises ArtefactError where index or backbone cannot be read."""
        store = LocalStore(settings.store)
        index = read_index(store.root)
        folder = store.backbone_folder(index.backbone)
        spec, _ = read_spec(folder)

        @cache  # one in memory for all bundles, and none read where no bundle holds pixels
        def projection() -> PatchProjection:
            return load_projection(folder)

        def build(bundle: Bundle) -> Generator:
            return load_generator(bundle, projection() if bundle.manifest.generator.library == "rgb" else None)

        metrics = StageMetrics("pgn")
        bank = Bank[Generator](store, index.backbone, build, device, grace_s=2 * settings.deadline_s, metrics=metrics)
        metrics.runs(backbone=index.backbone, device=str(device))
        return cls(
            bank,
            spec.preprocess,
            device=device,
            max_pixels=settings.max_pixels,
            top_k=settings.top_k,
            metrics=metrics,
        )

    @torch.inference_mode()
    def answer(self, rows: Sequence[Row]) -> list[bytes]:
        """One message a row, in order: prompts, with the images where the request wants them on, or an error."""
        batch = Batch(rows, self._read)
        snapshot = self.bank.snapshot  # one for the whole batch
        plans: dict[int, _Plan] = {}
        for number, message in batch.predictions().items():
            with batch.guard(number):
                plans[number] = self._plan(message, snapshot)
        prompts: dict[Place, NDArray[Any]] = {}
        for held, places in _by_version(plans).values():
            with batch.guard(*(number for number, _ in places)):
                prompts |= self._write_prompts(held, places, plans)

        def write(number: int, message: Message) -> bytes:
            if message.request.ask == "state":
                return self._describe(message)
            return _answer(message, plans[number].held, prompts, number)

        answers = batch.answers(write, encode_error)
        self.drift.keep(snapshot.held)
        self._show_drift(snapshot.index)
        batch.count(self._metrics)
        batch.log(held.version for plan in plans.values() for held in plan.held)
        return answers

    def _show_drift(self, index: Index) -> None:
        """Of each data set's main version, now and then."""
        if time.monotonic() < self._show_drift_at:
            return
        self._show_drift_at = time.monotonic() + _SHOW_DRIFT_EVERY_S
        drift = self.drift.drift()
        main = ((name, index.main_version(name)) for name in index.datasets)
        self._metrics.drifts({key[0]: drift[key] for key in main if key in drift})

    def _describe(self, message: Message) -> bytes:
        state = describe(self.bank, message.request, stage="pgn", device=self._device)
        return state.model_dump_json(by_alias=True).encode()

    def _read(self, row: Row) -> Message:
        return read_row(row, self._preprocess, max_pixels=self._max_pixels, top_k=self._top_k)

    def _plan(self, message: Message, snapshot: Snapshot[Generator]) -> _Plan:
        size = self._preprocess.size
        pixels, request = message.images, message.request
        if pixels is None or len(pixels) == 0:
            raise MessageInvalid("the message holds no image")
        if request.prompts_from == "image":
            raise MessageInvalid("the images carry their prompts; stage vit is asked alone")
        if pixels.shape[1:3] != (size, size):
            height, width = pixels.shape[1:3]
            raise MessageInvalid(f"the images are {width} x {height} pixels; the backbone's are {size} x {size}")
        held = tuple(snapshot.find(target) for target in request.targets)
        vectors = len(pixels) * sum(h.manifest.generator.num_prompts * h.manifest.generator.embed_dim for h in held)
        answer_bytes = 4 * vectors + (pixels.nbytes if request.reply == "all" else 0)
        if answer_bytes > MAX_ANSWER_BYTES:
            raise too_large(answer_bytes)
        return _Plan(held, pixels, is_canary=request.id == CANARY_ID)

    def _write_prompts(
        self, held: Held[Generator], places: Sequence[Place], plans: dict[int, _Plan]
    ) -> dict[Place, NDArray[Any]]:
        rows = [plans[number] for number, _ in places]
        sizes = [len(row.pixels) for row in rows]
        written, usages = self._forward(held.module, stack([row.pixels for row in rows], self._device))
        if usages is not None:
            self.drift.see(held, usages[np.repeat([not row.is_canary for row in rows], sizes)])
        parts = torch.split(written.float().cpu(), sizes)  # of (all images, K, D)
        return {place: part.numpy() for place, part in zip(places, parts, strict=True)}

    def _forward(self, generator: Generator, pixels: Tensor) -> tuple[Tensor, NDArray[Any] | None]:
        """(B, S, S, 3) uint8 -> (B, K, D) prompts, and the (B, N) usage of the library's tokens if it has one."""
        images = in_pieces(self._normalise, pixels)
        if not isinstance(generator, PromptGenerator):
            return in_pieces(generator, images), None
        mixture = in_pieces(generator.mixture, images)  # (B, K, N)
        return in_pieces(generator.library, mixture), mixture.mean(dim=1).float().cpu().numpy()


def _by_version(plans: dict[int, _Plan]) -> dict[str, tuple[Held[Generator], list[Place]]]:
    groups: dict[str, tuple[Held[Generator], list[Place]]] = {}
    for number, plan in plans.items():
        for which, held in enumerate(plan.held):
            groups.setdefault(held.digest, (held, []))[1].append((number, which))
    return groups


def _answer(
    message: Message, held: Sequence[Held[Generator]], prompts: dict[Place, NDArray[Any]], number: int
) -> bytes:
    targets = zip(message.request.targets, held, strict=True)
    pinned = tuple(target.model_copy(update={"digest": version.digest}) for target, version in targets)
    request = message.request.model_copy(update={"targets": pinned})
    written = tuple(prompts[number, which] for which in range(len(held)))
    return encode(replace(message, request=request).with_prompts(written))
