"""Many images, many data sets: divided so that no message and no answer is too large to carry."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgn.errors import RequestTooLarge
from pgn.gateway.datasets import Facts
from pgn.gateway.split import answer_bytes, split
from pgn.message import MAX_TARGETS, Answer, Prediction, Request, Result, Target

SMALL = Facts(("a", "b"), 1, "", None, prompt_bytes=4 * 8 * 768, num_features=512, label_bytes=3)
WIDE = Facts(tuple(str(i) for i in range(1000)), 1, "", None, prompt_bytes=24_576, num_features=768, label_bytes=5)


def asked(num_targets: int, **more: object) -> Request:
    targets = tuple(Target(dataset=f"d{i}", digest="0" * 64) for i in range(num_targets))
    fields = {"id": "r", "targets": targets, "prompts_from": "stage" if targets else "image", **more}
    return Request.model_validate(fields)


def squares(count: int, side: int = 224) -> list[np.ndarray]:
    return [np.zeros((side, side, 3), np.uint8)] * count


def test_few_images_are_one_message() -> None:
    """The common case costs one visit to each stage, and its answer is handed on as it is."""
    assert split(asked(1), [SMALL], squares(8)) == [range(8)]
    assert split(asked(MAX_TARGETS), [SMALL] * MAX_TARGETS, squares(1)) == [range(1)]


@given(st.integers(1, 70), st.integers(1, MAX_TARGETS), st.sampled_from([32, 224, 336]))
def test_every_image_travels_once_and_in_order(num_images: int, num_targets: int, side: int) -> None:
    """Whatever the sizes; and no message holds more than TorchServe carries."""
    groups = split(asked(num_targets), [SMALL] * num_targets, squares(num_images, side))
    assert [place for group in groups for place in group] == list(range(num_images))
    for group in groups:
        assert len(group) == 1 or len(group) * num_targets <= MAX_TARGETS
        assert len(group) * (side * side * 3 + num_targets * SMALL.prompt_bytes) < 15 * 2**20


def test_images_of_different_heights_travel_apart() -> None:
    """A message holds one array; prompted images have as many rows of prompts as they like."""
    images = [np.zeros((height, 32, 3), np.uint8) for height in (40, 40, 48, 40)]
    assert split(asked(1, prompts_from="image"), [SMALL], images) == [range(2), range(2, 3), range(3, 4)]


def test_an_answer_that_nobody_could_read_is_refused_before_it_is_made() -> None:
    """A thousand classes of many data sets for many images: the client is told what to ask less of."""
    with pytest.raises(RequestTooLarge, match="the answer could have"):
        split(asked(MAX_TARGETS, top_k=1000), [WIDE] * MAX_TARGETS, squares(32))
    assert split(asked(MAX_TARGETS, top_k=5), [WIDE] * MAX_TARGETS, squares(32))


@given(st.integers(1, 1000), st.booleans(), st.integers(1, 3))
def test_no_answer_is_larger_than_was_foreseen(top_k: int, embedding: bool, num_images: int) -> None:
    """The estimate is what keeps answers below TorchServe's limit, so it errs to one side only."""
    label = '"\\ü' * 20
    label_bytes = len(json.dumps(label, ensure_ascii=False).encode())
    facts = Facts((label,) * 40, 1, "", None, prompt_bytes=1, num_features=64, label_bytes=label_bytes)
    prediction = Prediction(label=label, probability=0.12345678901234567e-100)
    results = tuple(
        Result(
            image=1000,
            dataset="d" * 63,
            version="f" * 16,
            predictions=(prediction,) * min(top_k, 40),
            embedding=(-1.2345678901234567e-100,) * 64 if embedding else None,
        )
        for _ in range(num_images)
    )
    body = Answer(request_id="x", results=results).model_dump_json().encode()
    assert len(body) <= num_images * answer_bytes(asked(1, top_k=top_k, embedding=embedding), [facts]) + 100
