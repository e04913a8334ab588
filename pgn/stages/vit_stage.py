"""Stage vit: images and prompts in, answers out. One pass of the frozen ViT for all rows and data sets of equal K."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pgn.bundle import Bundle
from pgn.errors import BundleInvalid, MessageInvalid, PgnError, PromptedImageInvalid, StageFailed
from pgn.index import read_index
from pgn.message import Answer, Features, Message, Prediction, Request, Result
from pgn.method.backbone import FrozenBackbone, load_backbone
from pgn.method.head import Head, load_head
from pgn.settings import Settings
from pgn.stages.bank import Bank, Held
from pgn.stages.rows import Batch, Row, read_message
from pgn.stages.tensors import in_pieces, stack
from pgn.store.local import LocalStore


@dataclass(frozen=True)
class _Question:
    """The images of row `number` with the prompts of target `which`, and the version whose head answers.

    Without a version the features themselves are the answer.
    """

    number: int
    which: int
    held: Held[Head] | None
    pixels: NDArray[Any]  # (M, S + R, S, 3)
    prompts: NDArray[Any]  # (M, K, D)


Ranking = tuple[Prediction, ...]


class VitStage:
    """Answers with the frozen ViT and the heads of all data sets."""

    def __init__(self, bank: Bank[Head], backbone: FrozenBackbone, *, device: torch.device) -> None:
        self.bank = bank
        self._backbone = backbone
        self._device = device

    @classmethod
    def load(cls, settings: Settings, device: torch.device) -> VitStage:
        """The stage for a model store; raises ArtefactError where index or backbone cannot be read."""
        store = LocalStore(settings.store)
        index = read_index(store.root)
        backbone = load_backbone(store.backbone_folder(index.backbone), device)

        def build(bundle: Bundle) -> Head:
            _check_widths(bundle, backbone)
            return load_head(bundle)

        return cls(Bank[Head](store, index, build, device), backbone, device=device)

    @torch.inference_mode()
    def answer(self, rows: Sequence[Row]) -> list[bytes]:
        """One JSON body a row, in order: `Answer` or `Features`, or {"error": ...} with the request's id."""
        batch = Batch(rows, read_message)
        questions: dict[int, list[_Question]] = {}
        for number, message in batch.messages().items():
            with batch.guard(number):
                questions[number] = self._ask(number, message)
        features: dict[tuple[int, int], Tensor] = {}
        for group in _by_shape(questions):
            with batch.guard(*(question.number for question in group)):
                for question, rows_features in zip(group, self._features(group), strict=True):
                    features[question.number, question.which] = rows_features

        def write(number: int, message: Message) -> bytes:
            return _answer(message, [(q.held, features[number, q.which]) for q in questions[number]])

        return batch.answers(write, error_body)

    def _ask(self, number: int, message: Message) -> list[_Question]:
        pixels = message.images
        if message.request.prompts_from == "image":
            return self._ask_of_prompted_images(number, message.request, pixels)
        size = self._backbone.spec.preprocess.size
        if pixels is None or len(pixels) == 0 or not message.prompts:
            raise MessageInvalid("the message holds no image or no prompts; stage pgn comes first")
        if pixels.shape[1:3] != (size, size):
            height, width = pixels.shape[1:3]
            raise MessageInvalid(f"the images are {width} x {height} pixels; the backbone's are {size} x {size}")
        return self._ask_with_prompts(number, message, pixels)

    def _ask_of_prompted_images(self, number: int, request: Request, pixels: NDArray[Any] | None) -> list[_Question]:
        size, patch = self._backbone.spec.preprocess.size, self._backbone.patch_size
        if pixels is None or len(pixels) == 0:
            raise MessageInvalid("the message holds no image")
        height, width = pixels.shape[1:3]
        if width != size or (height - size) % patch:
            raise PromptedImageInvalid(
                f"the image is {width} x {height} pixels; the backbone reads {size} x {size} "
                f"with rows of {patch} pixels below it"
            )
        nothing = np.empty((len(pixels), 0, self._backbone.embed_dim), np.float32)
        if not request.targets:
            return [_Question(number, 0, None, pixels, nothing)]
        heads = [self.bank.find(target) for target in request.targets]
        return [_Question(number, which, held, pixels, nothing) for which, held in enumerate(heads)]

    def _ask_with_prompts(self, number: int, message: Message, pixels: NDArray[Any]) -> list[_Question]:
        questions = []
        for which, (target, prompts) in enumerate(zip(message.request.targets, message.prompts, strict=True)):
            if target.digest is None:
                raise MessageInvalid(f"the message names no version of data set {target.dataset!r}")
            held = self.bank.find(target)
            wanted = (len(pixels), held.manifest.generator.num_prompts, self._backbone.embed_dim)
            if prompts.shape != wanted:
                raise MessageInvalid(f"prompts for {target.dataset!r} have the shape {prompts.shape}, not {wanted}")
            questions.append(_Question(number, which, held, pixels, prompts))
        return questions

    def _features(self, group: Sequence[_Question]) -> Sequence[Tensor]:
        images = self._backbone.normalise(stack([question.pixels for question in group], self._device))
        prompts = stack([question.prompts for question in group], self._device).float()
        features = in_pieces(self._backbone, images, prompts)
        return torch.split(features, [len(question.pixels) for question in group])


def error_body(error: PgnError, request_id: str) -> bytes:
    """The JSON body that a client reads in place of an answer."""
    return json.dumps({"error": {**error.to_wire(), "request_id": request_id}}).encode()


def _check_widths(bundle: Bundle, backbone: FrozenBackbone) -> None:
    manifest = bundle.manifest
    found = (manifest.generator.embed_dim, manifest.head.features)
    if found != (backbone.embed_dim, backbone.num_features):
        raise BundleInvalid(
            f"bundle {bundle.version} has prompts and features of width {found}, "
            f"the backbone {(backbone.embed_dim, backbone.num_features)}"
        )


def _by_shape(questions: dict[int, list[_Question]]) -> list[list[_Question]]:
    """Questions that fit into one forward pass: images of equal height with equally many prompts."""
    groups: dict[tuple[int, int], list[_Question]] = {}
    for asked in questions.values():
        for question in asked:
            groups.setdefault((question.pixels.shape[1], question.prompts.shape[1]), []).append(question)
    return list(groups.values())


def _rank(held: Held[Head], features: Tensor, top_k: int) -> list[Ranking]:
    """For each image the most probable classes, after (M, features) -> (M, C) -> softmax with temperature."""
    manifest = held.manifest
    scores = (held.module(features) / manifest.temperature).softmax(dim=-1)
    if not scores.isfinite().all():
        raise StageFailed(f"the scores for data set {manifest.dataset!r} are not finite")
    best = scores.topk(min(top_k, len(manifest.classes)))
    return [
        tuple(Prediction(label=manifest.classes[i], probability=p) for p, i in zip(values, indices, strict=True))
        for values, indices in zip(best.values.tolist(), best.indices.tolist(), strict=True)
    ]


def _answer(message: Message, found: Sequence[tuple[Held[Head] | None, Tensor]]) -> bytes:
    """The body: images in order, for each its data sets in order, or the features alone."""
    request = message.request
    ranked = [(held, _rank(held, features, request.top_k)) for held, features in found if held]
    if not ranked:
        return _features_body(request.id, found[0][1])
    images = 0 if message.images is None else len(message.images)
    results = tuple(
        Result(image=i, dataset=held.manifest.dataset, version=held.version, predictions=rankings[i])
        for i in range(images)
        for held, rankings in ranked
    )
    return Answer(request_id=request.id, results=results).model_dump_json().encode()


def _features_body(request_id: str, features: Tensor) -> bytes:
    if not features.isfinite().all():
        raise StageFailed("the features are not finite")
    rows = tuple(tuple(row) for row in features.tolist())
    return Features(request_id=request_id, features=rows).model_dump_json().encode()
