"""Stage pgn: images in, prompts out. One forward pass for each version asked about, over the images of all rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch
from numpy.typing import NDArray

from pgn.backbone_spec import Preprocess, read_spec
from pgn.bundle import Bundle
from pgn.errors import MessageInvalid
from pgn.index import read_index
from pgn.message import Message, encode, encode_error
from pgn.method.generator import Generator, load_generator
from pgn.method.pixels import Normalise
from pgn.method.projection import PatchProjection, load_projection
from pgn.settings import Settings
from pgn.stages.bank import Bank, Held
from pgn.stages.rows import MAX_ANSWER_BYTES, Batch, Row, read_row, too_large
from pgn.stages.tensors import in_pieces, stack
from pgn.store.local import LocalStore

Place = tuple[int, int]
"""Row number, and which of the row's targets."""


@dataclass(frozen=True)
class _Plan:
    """The versions that one row's targets stand for, in their order."""

    held: tuple[Held[Generator], ...]
    pixels: NDArray[Any]


class PgnStage:
    """Writes prompts with the prompt bank.

    Args:
        bank: The generators of all data sets.
        preprocess: The backbone's; images sent by a person are decoded to it.
        device: Where the bank lives.
        max_pixels: Largest image that is decoded.
        top_k: Classes in an answer, if a person does not say.
    """

    def __init__(
        self,
        bank: Bank[Generator],
        preprocess: Preprocess,
        *,
        device: torch.device,
        max_pixels: int,
        top_k: int,
    ) -> None:
        self.bank = bank
        self._preprocess = preprocess
        self._normalise = Normalise(preprocess).to(device)
        self._device = device
        self._max_pixels = max_pixels
        self._top_k = top_k

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

        bank = Bank[Generator](store, index, build, device)
        return cls(bank, spec.preprocess, device=device, max_pixels=settings.max_pixels, top_k=settings.top_k)

    @torch.inference_mode()
    def answer(self, rows: Sequence[Row]) -> list[bytes]:
        """One message a row, in order: prompts, with the images where the request wants them on, or an error."""
        batch = Batch(rows, self._read)
        plans: dict[int, _Plan] = {}
        for number, message in batch.messages().items():
            with batch.guard(number):
                plans[number] = self._plan(message)
        prompts: dict[Place, NDArray[Any]] = {}
        for held, places in _by_version(plans).values():
            with batch.guard(*(number for number, _ in places)):
                prompts |= self._write_prompts(held, places, plans)

        def write(number: int, message: Message) -> bytes:
            return _answer(message, plans[number].held, prompts, number)

        return batch.answers(write, encode_error)

    def _read(self, row: Row) -> Message:
        return read_row(row, self._preprocess, max_pixels=self._max_pixels, top_k=self._top_k)

    def _plan(self, message: Message) -> _Plan:
        size = self._preprocess.size
        pixels, request = message.images, message.request
        if pixels is None or len(pixels) == 0:
            raise MessageInvalid("the message holds no image")
        if request.prompts_from == "image":
            raise MessageInvalid("the images carry their prompts; stage vit is asked alone")
        if pixels.shape[1:3] != (size, size):
            height, width = pixels.shape[1:3]
            raise MessageInvalid(f"the images are {width} x {height} pixels; the backbone's are {size} x {size}")
        held = tuple(self.bank.find(target) for target in request.targets)
        vectors = len(pixels) * sum(h.manifest.generator.num_prompts * h.manifest.generator.embed_dim for h in held)
        answer_bytes = 4 * vectors + (pixels.nbytes if request.reply == "all" else 0)
        if answer_bytes > MAX_ANSWER_BYTES:
            raise too_large(answer_bytes)
        return _Plan(held, pixels)

    def _write_prompts(
        self, held: Held[Generator], places: Sequence[Place], plans: dict[int, _Plan]
    ) -> dict[Place, NDArray[Any]]:
        pixels = [plans[number].pixels for number, _ in places]
        images = self._normalise(stack(pixels, self._device))
        written = in_pieces(held.module, images).float().cpu()  # (all images, K, D)
        parts = torch.split(written, [len(array) for array in pixels])
        return {place: part.numpy() for place, part in zip(places, parts, strict=True)}


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
