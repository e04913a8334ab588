"""Rows become messages, and errors stay with their row."""

from __future__ import annotations

import base64
import logging
import re
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgn.backbone_spec import Preprocess
from pgn.errors import (
    EmptyBody,
    MalformedRequest,
    MessageInvalid,
    NotAnImage,
    RequestTooLarge,
    StageFailed,
    UnreadableImage,
)
from pgn.images import read_square
from pgn.message import Message, Request, Target, encode, encode_error
from pgn.stages.rows import MAX_ANSWER_BYTES, Batch, Row, read_message, read_row
from tests.toys import make_images

PREPROCESS = Preprocess(size=32, interpolation="bicubic", mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
IMAGE = make_images(1)[0]
SQUARE = read_square(IMAGE, 32, interpolation="bicubic")


def read(row: Row) -> Message:
    return read_row(row, PREPROCESS, max_pixels=10_000, top_k=5)


def message(request_id: str = "a", dataset: str = "pets") -> Message:
    return Message(Request(id=request_id, targets=(Target(dataset=dataset),)), images=SQUARE[None])


class TestReadRow:
    def test_a_message_is_read_as_it_was_written(self) -> None:
        """The gateway's bytes arrive as a bytearray under "body"."""
        got = read({"body": bytearray(encode(message("the-id")))})
        assert got.request == message("the-id").request
        assert np.array_equal(got.images, SQUARE[None])

    def test_form_fields_become_a_request_with_the_backbones_pixels(self) -> None:
        """What curl -F sends is decoded by the one preprocessing."""
        got = read({"image": bytearray(IMAGE), "dataset": bytearray(b"pets"), "top_k": bytearray(b"2")})
        assert got.request.targets == (Target(dataset="pets"),)
        assert got.request.top_k == 2
        assert np.array_equal(got.images, SQUARE[None])

    def test_json_with_base64_means_the_same(self) -> None:
        """The server parses JSON before the stage sees it."""
        got = read({"body": {"image": base64.b64encode(IMAGE).decode(), "dataset": "pets", "top_k": 3}})
        assert got.request.top_k == 3
        assert np.array_equal(got.images, SQUARE[None])

    def test_each_person_gets_an_id_of_their_own(self) -> None:
        """An answer can be told from another in the log."""
        row = {"image": IMAGE, "dataset": b"pets"}
        assert read(row).request.id != read(row).request.id

    @pytest.mark.parametrize(
        ("row", "error", "words"),
        [
            ({}, EmptyBody, "0 bytes"),
            ({"body": bytearray()}, EmptyBody, "0 bytes"),
            ({"body": bytearray(b"neither one nor the other")}, MessageInvalid, "25 bytes"),
            ({"body": bytearray(b' {"image": ')}, MalformedRequest, "JSON"),
            ({"body": "text"}, MalformedRequest, "str"),
            ({"body": [1]}, MalformedRequest, "list"),
            ({"body": {"dataset": "pets"}}, MalformedRequest, "'image'"),
            ({"body": {"image": "?", "dataset": "pets"}}, MalformedRequest, "base64"),
            ({"body": {"image": 7, "dataset": "pets"}}, MalformedRequest, "'image'"),
            ({"body": {"image": "", "dataset": "pets"}}, EmptyBody, "0 bytes"),
            ({"dataset": b"pets"}, MalformedRequest, "'image' is missing"),
            ({"image": IMAGE}, MalformedRequest, "'dataset' is missing"),
            ({"image": "text", "dataset": b"pets"}, MalformedRequest, "text"),
            ({"image": IMAGE, "dataset": b"\xff"}, MalformedRequest, "'dataset'"),
            ({"image": IMAGE, "dataset": b"pets", "top_k": b"many"}, MalformedRequest, "'many'"),
            ({"image": IMAGE, "dataset": b"pets", "top_k": b"0"}, MalformedRequest, "'0'"),
            ({"image": IMAGE, "dataset": b"pets", "top_k": b"1" * 5000}, MalformedRequest, "top_k"),
            (
                {"body": {"image": base64.b64encode(IMAGE).decode(), "dataset": "p", "top_k": True}},
                MalformedRequest,
                "top_k",
            ),
            ({"image": b"", "dataset": b"pets"}, EmptyBody, "0 bytes"),
            ({"image": b"hello", "dataset": b"pets"}, NotAnImage, "hello"),
            ({"image": IMAGE[:200], "dataset": b"pets"}, UnreadableImage, "decoded"),
        ],
    )
    def test_a_bad_row_says_what_is_wrong_with_it(self, row: Row, error: type[Exception], words: str) -> None:
        """Each fault has its own code and names what was met."""
        with pytest.raises(error, match=words):
            read(row)

    @given(st.binary(max_size=300))
    def test_no_bytes_make_a_row_that_raises_anything_else(self, body: bytes) -> None:
        """Whatever arrives becomes a message or an error row."""
        batch = Batch([{"body": body}, {"image": body, "dataset": body}], read)
        assert len(batch.answers(lambda *_: b"ok", encode_error)) == 2


class TestBatch:
    def test_an_error_stays_with_its_row(self) -> None:
        """The neighbours of a bad row are answered."""
        batch = Batch([{"body": encode(message("a"))}, {"body": b"x"}, {"body": encode(message("c"))}], read_message)
        answers = batch.answers(lambda _, m: m.request.id.encode(), lambda error, _: error.code.encode())
        assert answers == [b"a", b"message.invalid", b"c"]

    def test_an_error_from_the_stage_before_keeps_its_request_id(self) -> None:
        """The caller can find the cause under the id it was given."""
        row = {"body": encode_error(NotAnImage("no image"), "the-id")}
        answers = Batch([row], read_message).answers(lambda *_: b"", lambda error, i: f"{error.code} {i}".encode())
        assert answers == [b"image.unsupported the-id"]

    def test_an_unforeseen_fault_is_logged_and_told_without_its_text(self, caplog: pytest.LogCaptureFixture) -> None:
        """The cause is in the log under the request's id, not in the answer."""
        batch = Batch([{"body": encode(message("the-id"))}], read_message)
        with caplog.at_level(logging.ERROR), batch.guard(0):
            raise ZeroDivisionError("secret")
        (answer,) = batch.answers(lambda *_: b"", lambda error, _: f"{error.code} {error}".encode())
        assert answer.startswith(StageFailed.code.encode())
        assert b"secret" not in answer
        assert "the-id" in caplog.text
        assert "secret" in caplog.text

    def test_an_answer_that_cannot_be_written_is_an_error_of_its_row(self) -> None:
        """There is one answer a row even then."""
        batch = Batch([{"body": encode(message("a"))}, {"body": encode(message("b"))}], read_message)

        def write(number: int, _: Message) -> bytes:
            return [b"good"][number]

        assert batch.answers(write, lambda error, _: error.code.encode()) == [b"good", b"service.stage_failed"]

    def test_an_answer_too_large_for_the_server_is_an_error_instead(self) -> None:
        """TorchServe kills the worker that gives one."""
        batch = Batch([{"body": encode(message("a"))}, {"body": encode(message("b"))}], read_message)
        answers = batch.answers(
            lambda number, _: bytes(MAX_ANSWER_BYTES + number), lambda error, _: error.code.encode()
        )
        assert len(answers[0]) == MAX_ANSWER_BYTES
        assert answers[1] == RequestTooLarge.code.encode()

    def test_a_row_whose_time_is_over_costs_nothing(self) -> None:
        """Nobody waits for it any more; those behind it do."""
        late, soon = (
            Message(message("a").request.model_copy(update={"expires_at": time.time() + seconds}))
            for seconds in (-0.5, 60)
        )
        batch = Batch([{"body": encode(late)}, {"body": encode(soon)}], read_message)
        assert list(batch.predictions()) == [1]
        answers = batch.answers(lambda *_: b"good", lambda error, _: str(error).encode())
        assert re.match(rb"the request's time ran out 5\d\d ms before", answers[0])
        assert answers[1] == b"good"

    def test_a_batch_is_one_line_of_the_log(self, caplog: pytest.LogCaptureFixture) -> None:
        """Every request can be followed through both stages by its id or its trace, at the price of one line."""
        traceparent = f"00-{'a' * 32}-{'b' * 16}-01"
        traced = message("traced").request.model_copy(update={"traceparent": traceparent})
        batch = Batch([{"body": encode(Message(traced))}, {"body": b"x"}], read_message)
        batch.answers(lambda *_: b"", lambda *_: b"")
        with caplog.at_level(logging.INFO, logger="pgn"):
            batch.log(["2" * 16, "1" * 16, "2" * 16])
        (line,) = (vars(record) for record in caplog.records)
        assert line["message"] == "batch answered"
        assert line["versions"] == ["1" * 16, "2" * 16]
        assert (line["rows"], line["requests"][0], line["traceparents"]) == (2, "traced", [traceparent])
        assert line["failed"] == {line["requests"][1]: "message.invalid"}
        assert line["ms"] >= 0
