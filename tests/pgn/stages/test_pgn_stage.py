"""Stage pgn: the right prompts for each row, whatever its neighbours are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pgn.errors import DatasetUnavailable, MessageInvalid, NotAnImage, PgnError, RequestTooLarge, UnknownDataset
from pgn.index import read_index
from pgn.message import Message, Request, Target, decode, encode
from pgn.method.backbone import load_backbone
from pgn.method.generator import PromptGenerator, load_generator
from pgn.method.projection import projection_of
from pgn.settings import Settings
from pgn.stages import pgn_stage
from pgn.stages.pgn_stage import PgnStage
from pgn.store.local import LocalStore
from tests.pgn.stages.asking import SQUARES, ask
from tests.toys import make_bundle, make_images, make_store


@pytest.fixture(scope="module")
def stage(mixed_store: LocalStore) -> PgnStage:
    """The stage as its handler loads it."""
    return PgnStage.load(Settings(store=mixed_store.root), torch.device("cpu"))


def expected(store: LocalStore, dataset: str, images: list[int]) -> np.ndarray[Any, Any]:
    index = read_index(store.root)
    backbone = load_backbone(store.backbone_folder(index.backbone))
    digest = index.datasets[dataset].versions[0].digest
    generator = load_generator(store.read(dataset, digest, backbone=index.backbone))
    with torch.inference_mode():
        return generator(backbone.normalise(torch.from_numpy(SQUARES[images]))).numpy()


def error_of(answer: bytes) -> PgnError:
    with pytest.raises(PgnError) as raised:
        decode(answer)
    return raised.value


def test_a_mixed_batch_gives_each_row_its_own_prompts(stage: PgnStage, mixed_store: LocalStore) -> None:
    """Rows of several data sets, images and targets share forward passes and nothing else."""
    rows = [ask("a", ["flowers"]), ask("b", ["pets", "flowers"], [1, 2]), ask("c", ["shapes"], [3])]
    answers = [decode(answer) for answer in stage.answer(rows)]
    for answer, datasets, images in zip(
        answers, (["flowers"], ["pets", "flowers"], ["shapes"]), ([0], [1, 2], [3]), strict=True
    ):
        for prompts, dataset in zip(answer.prompts, datasets, strict=True):
            assert prompts.dtype == np.float32
            np.testing.assert_allclose(prompts, expected(mixed_store, dataset, images), atol=1e-5)


def test_one_forward_pass_for_each_version(stage: PgnStage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sixteen rows of two data sets cost two passes, the mixture that drift is seen by included."""
    sizes = []
    mixture = PromptGenerator.mixture

    def count(generator: PromptGenerator, images: torch.Tensor) -> torch.Tensor:
        sizes.append(len(images))
        return mixture(generator, images)

    monkeypatch.setattr(PromptGenerator, "mixture", count)
    stage.answer([ask(str(i), ["flowers", "pets"][: 1 + i % 2]) for i in range(16)])
    assert sorted(sizes) == [8, 16]


@pytest.fixture
def rgb_store(tmp_path: Path) -> LocalStore:
    """A store with a data set of each library."""
    store = make_store(tmp_path, ["latent"])
    store.publish(make_bundle(tmp_path / "made", "rgb", read_index(tmp_path).backbone, seed=3, library="rgb"))
    return store


def test_an_rgb_library_needs_of_the_backbone_its_first_layer(rgb_store: LocalStore) -> None:
    """Prompts leave stage 1 as tokens, whatever their library; stage vit cannot tell."""
    index = read_index(rgb_store.root)
    backbone = load_backbone(rgb_store.backbone_folder(index.backbone))
    bundle = rgb_store.read("rgb", index.main_version("rgb"), backbone=index.backbone)
    generator = load_generator(bundle, projection_of(backbone))
    with torch.inference_mode():
        wanted = generator(backbone.normalise(torch.from_numpy(SQUARES[[0, 2]]))).numpy()
    (answer,) = PgnStage.load(Settings(store=rgb_store.root), torch.device("cpu")).answer([ask("a", ["rgb"], [0, 2])])
    assert decode(answer).prompts[0].dtype == np.float32
    np.testing.assert_allclose(decode(answer).prompts[0], wanted, atol=1e-5)


def test_a_damaged_backbone_stops_rgb_libraries_alone(rgb_store: LocalStore) -> None:
    """Latent libraries need nothing of the backbone, and go on being served."""
    weights = rgb_store.backbone_folder(read_index(rgb_store.root).backbone) / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\xff")
    stage = PgnStage.load(Settings(store=rgb_store.root), torch.device("cpu"))
    latent, rgb = stage.answer([ask("a", ["latent"]), ask("b", ["rgb"])])
    assert decode(latent).prompts
    assert isinstance(error_of(rgb), DatasetUnavailable)
    assert "its spec says" in error_of(rgb).message


def test_prompts_alone_if_asked_and_the_digest_is_pinned(stage: PgnStage, mixed_store: LocalStore) -> None:
    """The gateway keeps the image; stage vit has to use the head of the version that wrote the prompts."""
    short, whole = (
        decode(answer) for answer in stage.answer([ask("a", ["pets"], reply="prompts"), ask("b", ["pets"])])
    )
    assert short.images is None
    assert np.array_equal(whole.images, SQUARES[:1])
    digest = read_index(mixed_store.root).datasets["pets"].versions[0].digest
    assert short.request.targets == whole.request.targets == (Target(dataset="pets", digest=digest),)


def test_bad_rows_leave_the_others_right(stage: PgnStage, mixed_store: LocalStore) -> None:
    """One answer a row, in order, and each error with its row's id."""
    wrong_size = Message(Request(id="size", targets=(Target(dataset="pets"),)), images=np.zeros((1, 8, 8, 3), np.uint8))
    rows = [
        {"body": b"nonsense"},
        ask("good", ["pets"]),
        ask("unknown", ["pet"]),
        ask("broken", ["broken"]),
        {"body": encode(wrong_size)},
        {"image": b"no image", "dataset": b"pets"},
        {"image": make_images(1)[0], "dataset": b"pets"},
    ]
    answers = stage.answer(rows)
    kinds = [MessageInvalid, None, UnknownDataset, DatasetUnavailable, MessageInvalid, NotAnImage, None]
    assert [None if kind is None else type(error_of(a)) for kind, a in zip(kinds, answers, strict=True)] == kinds
    assert error_of(answers[2]).request_id == "unknown"
    assert "8 x 8" in error_of(answers[4]).message
    for answer in (answers[1], answers[6]):
        np.testing.assert_allclose(decode(answer).prompts[0], expected(mixed_store, "pets", [0]), atol=1e-5)


def test_a_generator_that_fails_fails_its_rows_alone(mixed_store: LocalStore, caplog: pytest.LogCaptureFixture) -> None:
    """The others of the batch are answered, and the cause is logged."""
    stage = PgnStage.load(Settings(store=mixed_store.root), torch.device("cpu"))

    class Failing(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("out of luck")

    held = stage.bank.snapshot.find(Target(dataset="pets"))
    object.__setattr__(held, "module", Failing())
    good, bad = stage.answer([ask("a", ["flowers"]), ask("b", ["pets"])])
    assert decode(good).prompts
    assert error_of(bad).code == "service.stage_failed"
    assert "out of luck" in caplog.text


def test_an_answer_too_large_for_the_server_is_refused(stage: PgnStage, monkeypatch: pytest.MonkeyPatch) -> None:
    """TorchServe kills the worker that writes it."""
    monkeypatch.setattr(pgn_stage, "MAX_ANSWER_BYTES", 4000)
    small, large = stage.answer([ask("a", ["pets"]), ask("b", ["pets"], [0, 1])])
    assert isinstance(error_of(large), RequestTooLarge)
    assert decode(small).prompts
