"""Stage vit: answers equal to the in-process ones, whatever the batch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from pgn.errors import DeadlineExceeded, MessageInvalid, NotAnImage
from pgn.index import read_index
from pgn.message import Message, Request, Target, decode, encode, encode_error
from pgn.method.backbone import load_backbone
from pgn.method.predictor import Predictor
from pgn.settings import Settings
from pgn.stages.pgn_stage import PgnStage
from pgn.stages.rows import Row
from pgn.stages.vit_stage import VitStage
from pgn.store.local import LocalStore
from tests.pgn.stages.asking import SQUARES, ask, body, probabilities

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def stages(mixed_store: LocalStore) -> tuple[PgnStage, VitStage]:
    """Both stages as their handlers load them."""
    settings = Settings(store=mixed_store.root)
    return PgnStage.load(settings, CPU), VitStage.load(settings, CPU)


def through(stages: tuple[PgnStage, VitStage], rows: list[Row]) -> list[dict[str, Any]]:
    """What the workflow answers."""
    first, second = stages
    return [body(answer) for answer in second.answer([{"body": bytearray(a)} for a in first.answer(rows)])]


def in_process(store: LocalStore, dataset: str, image: int) -> dict[str, float]:
    index = read_index(store.root)
    bundle = store.read(dataset, index.datasets[dataset].versions[0].digest, backbone=index.backbone)
    predictor = Predictor(load_backbone(store.backbone_folder(index.backbone)), bundle)
    scores = predictor.probabilities(torch.from_numpy(SQUARES[[image]]))[0].tolist()
    return dict(zip(bundle.manifest.classes, scores, strict=True))


def test_a_mixed_batch_answers_as_in_process(stages: tuple[PgnStage, VitStage], mixed_store: LocalStore) -> None:
    """Data sets, numbers of prompts, several images and several targets in one batch: to 1e-5."""
    asked = {"a": (["flowers"], [0]), "b": (["pets", "shapes", "flowers"], [1, 2]), "c": (["shapes"], [3])}
    answers = through(stages, [ask(name, *what) for name, what in asked.items()])
    for answer, (name, (datasets, images)) in zip(answers, asked.items(), strict=True):
        assert answer["request_id"] == name
        places = [(result["image"], result["dataset"]) for result in answer["results"]]
        assert places == [(i, dataset) for i in range(len(images)) for dataset in datasets]
        for result in answer["results"]:
            wanted = in_process(mixed_store, result["dataset"], images[result["image"]])
            assert probabilities(result) == pytest.approx(wanted, abs=1e-5)


def test_a_row_is_answered_alone_as_in_a_batch(stages: tuple[PgnStage, VitStage]) -> None:
    """Neighbours change nothing."""
    rows = [ask(str(i), [("flowers", "pets", "shapes")[i % 3]], [i]) for i in range(8)]
    for together, row in zip(through(stages, rows), rows, strict=True):
        (alone,) = through(stages, [row])
        assert probabilities(together["results"][0]) == pytest.approx(probabilities(alone["results"][0]), abs=1e-5)


def test_one_vit_pass_for_all_data_sets_of_equal_k(
    stages: tuple[PgnStage, VitStage], monkeypatch: pytest.MonkeyPatch
) -> None:
    """This is why one frozen ViT serves hundreds of data sets."""
    embedded, encoded = [], []
    backbone = stages[1]._backbone
    embed, encode = backbone.embed, backbone.encode

    def count_images(images: torch.Tensor) -> torch.Tensor:
        embedded.append(len(images))
        return embed(images)

    def count_sequences(tokens: torch.Tensor) -> torch.Tensor:
        encoded.append((len(tokens), tokens.shape[1] - 17))  # besides the class token and 16 patches
        return encode(tokens)

    monkeypatch.setattr(backbone, "embed", count_images)
    monkeypatch.setattr(backbone, "encode", count_sequences)
    through(stages, [ask("a", ["flowers"]), ask("b", ["pets", "flowers"], [1, 2]), ask("c", ["shapes"])])
    assert sorted(encoded) == [(1, 2), (5, 4)]
    assert sorted(embedded) == [1, 3]  # two data sets ask about the images of `b`, which are embedded once


def test_the_most_probable_classes_come_first(stages: tuple[PgnStage, VitStage]) -> None:
    """`top_k` cuts the list, and may be larger than there are classes."""
    two, all_ = through(stages, [ask("a", ["pets"], top_k=2), ask("b", ["pets"], top_k=1000)])
    values = list(probabilities(all_["results"][0]).values())
    assert values == sorted(values, reverse=True)
    assert sum(values) == pytest.approx(1, abs=1e-5)
    assert list(probabilities(two["results"][0])) == list(probabilities(all_["results"][0]))[:2]


def prompted(rows: int, datasets: list[str], store: LocalStore, image: int = 0) -> Row:
    """A row whose image carries `rows` rows of pixels below it, and asks the heads of the data sets."""
    index = read_index(store.root)
    targets = tuple(Target(dataset=name, digest=index.datasets[name].versions[0].digest) for name in datasets)
    request = Request(id="prompted", targets=targets, prompts_from="image")
    below = np.random.default_rng(0).integers(0, 256, (1, rows, 32, 3), dtype=np.uint8)
    return {"body": encode(Message(request, np.concatenate([SQUARES[[image]], below], axis=1)))}


def test_prompts_in_the_image_answer_like_prompts(stages: tuple[PgnStage, VitStage], mixed_store: LocalStore) -> None:
    """Two rows of patches below the image are eight prompts: the frozen ViT and a head need no PGN."""
    row = prompted(16, ["pets", "flowers"], mixed_store)
    pixels = decode(row["body"]).images
    assert pixels is not None
    backbone = stages[1]._backbone
    images = backbone.normalise(torch.from_numpy(pixels))
    features = backbone(images[:, :, :32], backbone.project(images[:, :, 32:]))
    plain, answer = stages[1].answer([prompted(0, ["pets"], mixed_store), row])
    assert body(plain)["results"][0]["predictions"] != body(answer)["results"][0]["predictions"]
    for result, dataset in zip(body(answer)["results"], ("pets", "flowers"), strict=True):
        held = stages[1].bank.snapshot.find(Target(dataset=dataset))
        scores = (held.module(features) / held.manifest.temperature).softmax(-1)[0].tolist()
        assert probabilities(result) == pytest.approx(dict(zip(held.manifest.classes, scores, strict=True)), abs=1e-5)


def test_without_a_data_set_the_answer_is_the_features(
    stages: tuple[PgnStage, VitStage], mixed_store: LocalStore
) -> None:
    """A caller with a head of their own needs nothing more; neighbours in the batch change nothing."""
    good = {"body": stages[0].answer([ask("a", ["pets"])])[0]}
    _, answer = stages[1].answer([good, prompted(0, [], mixed_store)])
    backbone = stages[1]._backbone
    features = backbone(backbone.normalise(torch.from_numpy(SQUARES[[0]])))
    assert body(answer)["request_id"] == "prompted"
    torch.testing.assert_close(torch.tensor(body(answer)["features"]), features, atol=1e-5, rtol=0)


def test_half_a_patch_below_the_image_is_refused(stages: tuple[PgnStage, VitStage], mixed_store: LocalStore) -> None:
    """Only the stage knows how large a patch is; stage pgn refuses what is not its work."""
    row = prompted(12, ["pets"], mixed_store)
    error = body(stages[1].answer([row])[0])["error"]
    assert error["code"] == "image.not_prompted"
    assert "32 x 44 pixels; the backbone reads 32 x 32 with rows of 8 pixels below it" in error["message"]
    with pytest.raises(MessageInvalid, match="stage vit is asked alone"):
        decode(stages[0].answer([row])[0])


def test_an_error_of_stage_pgn_becomes_the_body(stages: tuple[PgnStage, VitStage]) -> None:
    """A direct caller reads what the gateway's would."""
    row = {"body": encode_error(NotAnImage("no image"), "the-id")}
    answer, good = stages[1].answer([row, {"body": stages[0].answer([ask("a", ["pets"])])[0]}])
    assert body(answer) == {"error": {**NotAnImage("no image").to_wire(), "request_id": "the-id"}}
    assert body(good)["results"]


def test_bad_messages_leave_the_others_right(stages: tuple[PgnStage, VitStage], mixed_store: LocalStore) -> None:
    """Stage vit trusts nothing: not the shape, not the width, not the version."""
    good = decode(stages[0].answer([ask("good", ["pets"])])[0])
    (target,) = good.request.targets

    def row(images: Any = good.images, prompts: Any = good.prompts, target: Target = target) -> Row:
        return {"body": encode(Message(Request(id="bad", targets=(target,)), images, prompts))}

    nan = np.full_like(good.prompts[0], np.nan)
    rows = [
        row(prompts=()),
        row(images=np.zeros((1, 16, 16, 3), np.uint8)),
        row(prompts=(np.zeros((1, 4, 7), np.float32),)),
        row(prompts=(np.zeros((1, 3, 32), np.float32),)),
        row(target=Target(dataset="pets")),
        row(target=Target(dataset="pets", digest="0" * 64)),
        row(prompts=(nan,)),
        row(images=None),
        {"body": b""},
        {"body": encode(good)},
    ]
    *bad, last = (body(answer) for answer in stages[1].answer(rows))
    codes = [answer["error"]["code"] for answer in bad]
    invalid, failed = "message.invalid", "service.stage_failed"
    assert codes == [*[invalid] * 5, "service.not_ready", failed, invalid, "request.empty"]
    assert probabilities(last["results"][0]) == pytest.approx(in_process(mixed_store, "pets", 0), abs=1e-5)


def test_a_pass_that_fails_fails_its_group_alone(
    stages: tuple[PgnStage, VitStage], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows with another number of prompts are answered."""
    backbone = stages[1]._backbone
    encode = backbone.encode

    def fail(tokens: torch.Tensor) -> torch.Tensor:
        if tokens.shape[1] == 17 + 2:
            raise RuntimeError("out of luck")
        return encode(tokens)

    monkeypatch.setattr(backbone, "encode", fail)
    good, bad = through(stages, [ask("a", ["flowers"]), ask("b", ["shapes"])])
    assert good["results"]
    assert bad["error"]["code"] == "service.stage_failed"
    assert bad["error"]["request_id"] == "b"


def test_half_precision_prompts_are_taken(stages: tuple[PgnStage, VitStage], mixed_store: LocalStore) -> None:
    """A caller may save bytes; the answer moves by as much as the rounding."""
    message = decode(stages[0].answer([ask("a", ["pets"])])[0])
    half = Message(message.request, message.images, (message.prompts[0].astype(np.float16),))
    answer = body(stages[1].answer([{"body": encode(half)}])[0])
    assert probabilities(answer["results"][0]) == pytest.approx(in_process(mixed_store, "pets", 0), abs=1e-2)


def with_threshold(store: LocalStore, threshold: float | None) -> VitStage:
    """Stage vit, whose `pets` have this threshold."""
    stage = VitStage.load(Settings(store=store.root), CPU)
    held = stage.bank.snapshot.find(Target(dataset="pets"))
    manifest = held.manifest.model_copy(update={"unknown_threshold": threshold})
    object.__setattr__(held, "manifest", manifest)
    return stage


def test_below_its_threshold_a_bundle_says_unknown(stages: tuple[PgnStage, VitStage], mixed_store: LocalStore) -> None:
    """The classes stay in the answer; a bundle without a threshold never says so."""
    row = {"body": stages[0].answer([ask("a", ["pets"], top_k=1)])[0]}
    (known,) = body(stages[1].answer([row])[0])["results"]
    best = known["predictions"][0]["probability"]
    assert known["unknown"] is False
    for threshold, is_unknown in ((best + 1e-4, True), (best - 1e-4, False)):
        (result,) = body(with_threshold(mixed_store, threshold).answer([row])[0])["results"]
        assert (result["unknown"], result["predictions"]) == (is_unknown, known["predictions"])


def test_an_embedding_is_what_the_head_read(stages: tuple[PgnStage, VitStage]) -> None:
    """Callers search and cluster with it; who does not ask does not carry it."""
    message = decode(stages[0].answer([ask("a", ["pets", "flowers"], [0, 1])])[0])
    asked = message.request.model_copy(update={"embedding": True})
    plain, answer = (
        body(stages[1].answer([{"body": encode(Message(request, message.images, message.prompts))}])[0])["results"]
        for request in (message.request, asked)
    )
    assert all("embedding" not in result for result in plain)
    for result in answer:
        held = stages[1].bank.snapshot.find(Target(dataset=result["dataset"]))
        logits = held.module(torch.tensor(result["embedding"])[None])
        scores = (logits / held.manifest.temperature).softmax(-1)[0].tolist()
        assert probabilities(result) == pytest.approx(dict(zip(held.manifest.classes, scores, strict=True)), abs=1e-5)


def test_a_row_whose_time_is_over_is_not_computed(stages: tuple[PgnStage, VitStage]) -> None:
    """Behind a full queue stands a request whose client has gone; the next one should not wait for it."""
    message = decode(stages[0].answer([ask("a", ["pets"])])[0])
    late = message.request.model_copy(update={"expires_at": 1.0})
    row = {"body": encode(Message(late, message.images, message.prompts))}
    with pytest.raises(DeadlineExceeded):
        decode(stages[0].answer([row])[0])
    assert body(stages[1].answer([row])[0])["error"]["code"] == "service.deadline"
