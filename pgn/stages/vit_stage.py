"""Stage vit: images and prompts in, answers out. One pass of the frozen ViT for all rows and data sets of equal K.

Rows with other numbers of prompts have a pass of their own rather than padding and a mask: two passes over eight rows
cost little more than one over sixteen, and padding costs more than that (docs/results/bank.md).
"""

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
from pgn.stages.bank import Bank, Held, Snapshot
from pgn.stages.metrics import StageMetrics
from pgn.stages.rows import Batch, Row, read_message
from pgn.stages.state import describe
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


class VitStage:
    """Answers with the frozen ViT and the heads of all data sets."""

    def __init__(
        self,
        bank: Bank[Head],
        backbone: FrozenBackbone,
        *,
        device: torch.device,
        metrics: StageMetrics | None = None,
    ) -> None:
        self.bank = bank
        self._metrics = metrics or StageMetrics("vit")
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

        metrics = StageMetrics("vit")
        bank = Bank[Head](store, index.backbone, build, device, grace_s=2 * settings.deadline_s, metrics=metrics)
        metrics.runs(backbone=index.backbone, device=str(device))
        return cls(bank, backbone, device=device, metrics=metrics)

    @torch.inference_mode()
    def answer(self, rows: Sequence[Row]) -> list[bytes]:
        """One JSON body a row, in order: `Answer` or `Features`, or {"error": ...} with the request's id."""
        batch = Batch(rows, read_message)
        snapshot = self.bank.snapshot  # one for the whole batch
        questions: dict[int, list[_Question]] = {}
        for number, message in batch.predictions().items():
            with batch.guard(number):
                questions[number] = self._ask(number, message, snapshot)
        features: dict[tuple[int, int], Tensor] = {}
        for group in _by_shape(questions):
            with batch.guard(*(question.number for question in group)):
                for question, rows_features in zip(group, self._features(group), strict=True):
                    features[question.number, question.which] = rows_features

        def write(number: int, message: Message) -> bytes:
            if message.request.ask == "state":
                return self._describe(message)
            return _answer(message, [(q.held, features[number, q.which]) for q in questions[number]])

        answers = batch.answers(write, error_body)
        batch.count(self._metrics)
        batch.log(q.held.version for asked in questions.values() for q in asked if q.held)
        return answers

    def _describe(self, message: Message) -> bytes:
        state = describe(self.bank, message.request, stage="vit", device=self._device)
        return state.model_dump_json(by_alias=True).encode()

    def _ask(self, number: int, message: Message, snapshot: Snapshot[Head]) -> list[_Question]:
        pixels = message.images
        if message.request.prompts_from == "image":
            return self._ask_of_prompted_images(number, message.request, pixels, snapshot)
        size = self._backbone.spec.preprocess.size
        if pixels is None or len(pixels) == 0 or not message.prompts:
            raise MessageInvalid("the message holds no image or no prompts; stage pgn comes first")
        if pixels.shape[1:3] != (size, size):
            height, width = pixels.shape[1:3]
            raise MessageInvalid(f"the images are {width} x {height} pixels; the backbone's are {size} x {size}")
        return self._ask_with_prompts(number, message, pixels, snapshot)

    def _ask_of_prompted_images(
        self, number: int, request: Request, pixels: NDArray[Any] | None, snapshot: Snapshot[Head]
    ) -> list[_Question]:
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
        heads = [snapshot.find(target) for target in request.targets]
        return [_Question(number, which, held, pixels, nothing) for which, held in enumerate(heads)]

    def _ask_with_prompts(
        self, number: int, message: Message, pixels: NDArray[Any], snapshot: Snapshot[Head]
    ) -> list[_Question]:
        questions = []
        for which, (target, prompts) in enumerate(zip(message.request.targets, message.prompts, strict=True)):
            if target.digest is None:
                raise MessageInvalid(f"the message names no version of data set {target.dataset!r}")
            held = snapshot.find(target)
            wanted = (len(pixels), held.manifest.generator.num_prompts, self._backbone.embed_dim)
            if prompts.shape != wanted:
                raise MessageInvalid(f"prompts for {target.dataset!r} have the shape {prompts.shape}, not {wanted}")
            questions.append(_Question(number, which, held, pixels, prompts))
        return questions

    def _features(self, group: Sequence[_Question]) -> Sequence[Tensor]:
        """The group's features, question by question. An image is embedded once, whatever number of data sets ask."""
        rows = {question.number: question.pixels for question in group}
        embedded = in_pieces(self._embed, stack(list(rows.values()), self._device))
        tokens = dict(zip(rows, torch.split(embedded, [len(pixels) for pixels in rows.values()]), strict=True))
        prompts = stack([question.prompts for question in group], self._device).float()
        features = in_pieces(self._encode, torch.cat([tokens[question.number] for question in group]), prompts)
        return torch.split(features, [len(question.pixels) for question in group])

    def _embed(self, pixels: Tensor) -> Tensor:
        return self._backbone.embed(self._backbone.normalise(pixels))

    def _encode(self, tokens: Tensor, prompts: Tensor) -> Tensor:
        return self._backbone.encode(torch.cat([tokens, prompts.to(tokens.dtype)], dim=1))


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


def _results(held: Held[Head], features: Tensor, request: Request) -> list[Result]:
    """One result for each image, after (M, features) -> (M, C) -> softmax with temperature."""
    manifest = held.manifest
    scores = (held.module(features) / manifest.temperature).softmax(dim=-1)
    if not scores.isfinite().all():
        raise StageFailed(f"the scores for data set {manifest.dataset!r} are not finite")
    best = scores.topk(min(request.top_k, len(manifest.classes)))
    embeddings = features.tolist() if request.embedding else [None] * len(features)
    return [
        Result(
            image=image,
            dataset=manifest.dataset,
            version=held.version,
            predictions=tuple(
                Prediction(label=manifest.classes[i], probability=p) for p, i in zip(values, indices, strict=True)
            ),
            unknown=manifest.unknown_threshold is not None and values[0] < manifest.unknown_threshold,
            embedding=embedding,
        )
        for image, (values, indices, embedding) in enumerate(
            zip(best.values.tolist(), best.indices.tolist(), embeddings, strict=True)
        )
    ]


def _answer(message: Message, found: Sequence[tuple[Held[Head] | None, Tensor]]) -> bytes:
    """The body: images in order, for each its data sets in order, or the features alone."""
    request = message.request
    by_target = [_results(held, features, request) for held, features in found if held]
    if not by_target:
        return _features_body(request.id, found[0][1])
    results = tuple(result for of_one_image in zip(*by_target, strict=True) for result in of_one_image)
    return Answer(request_id=request.id, results=results).model_dump_json().encode()


def _features_body(request_id: str, features: Tensor) -> bytes:
    if not features.isfinite().all():
        raise StageFailed("the features are not finite")
    rows = tuple(tuple(row) for row in features.tolist())
    return Features(request_id=request_id, features=rows).model_dump_json().encode()
