"""Between gateway and stages a row arrives as it was sent, or is refused."""

from __future__ import annotations

import json
import struct
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from pgn.errors import ERRORS, MessageInvalid, PgnError, UnknownDataset
from pgn.message import Message, Request, Target, decode, encode, encode_error

REQUEST = Request(id="r1", targets=(Target(dataset="digits"), Target(dataset="letters", digest="ab" * 32)))
IMAGES = np.arange(2 * 4 * 4 * 3, dtype=np.uint8).reshape(2, 4, 4, 3)
PROMPTS = (np.ones((2, 3, 8), np.float32), np.ones((2, 5, 8), np.float16))
WHOLE = encode(Message(REQUEST, IMAGES, PROMPTS))


def blob(metadata: object, tensors: dict[str, object] | None = None, payload: bytes = b"") -> bytes:
    """A message put together by hand, as another program might."""
    header = json.dumps({"__metadata__": metadata, **(tensors or {})}).encode()
    return struct.pack("<Q", len(header)) + header + payload


def same(left: Message, right: Message) -> bool:
    pairs = [*zip(left.prompts, right.prompts, strict=True), (left.images, right.images)]
    equal = all((a is b is None) or (a.dtype == b.dtype and np.array_equal(a, b, equal_nan=True)) for a, b in pairs)
    return equal and left.request == right.request


@st.composite
def messages(draw) -> Message:
    prompts_from = draw(st.sampled_from(["stage", "image"]))
    target = st.builds(Target, dataset=st.text(), digest=st.none() | st.text())
    targets = draw(st.lists(target, min_size=prompts_from == "stage", max_size=4))
    request = Request(
        id=draw(st.text(max_size=128)),
        targets=tuple(targets),
        top_k=draw(st.integers(1, 1000)),
        reply=draw(st.sampled_from(["prompts", "all"])),
        prompts_from=prompts_from,
    )
    count, side, width = draw(st.integers(0, 3)), draw(st.integers(1, 5)), draw(st.integers(1, 5))
    images = draw(st.none() | arrays.arrays(np.uint8, (count, side + draw(st.integers(0, 3)), side, 3)))
    if not draw(st.booleans()):
        return Message(request, images)
    kinds = st.sampled_from([np.float16, np.float32])
    shapes = st.tuples(st.just(count), st.integers(0, 4), st.just(width))
    return Message(request, images, tuple(draw(arrays.arrays(kinds, shapes)) for _ in targets))


class TestIdentity:
    @given(messages())
    def test_decoding_gives_what_was_encoded(self, message):
        """Whatever the shapes and names, nothing is lost or turned."""
        assert same(decode(encode(message)), message)

    def test_memory_layout_is_no_content(self):
        """A transposed view is sent as what it shows."""
        view = np.ones((2, 8, 3), np.float32).transpose(0, 2, 1)
        view[0, 1, 2] = 7
        message = Message(REQUEST, None, (view, view))
        assert same(decode(encode(message)), message)

    @pytest.mark.parametrize(("reply", "has_images"), [("prompts", False), ("all", True)])
    def test_images_go_on_only_where_they_are_wanted(self, reply, has_images):
        """The gateway keeps the images itself; the server's own workflow has no other way to pass them on."""
        message = Message(REQUEST.model_copy(update={"reply": reply}), IMAGES).with_prompts(PROMPTS)
        assert message.prompts is PROMPTS
        assert (message.images is not None) == has_images


class TestErrors:
    @pytest.mark.parametrize("cls", ERRORS.values())
    def test_an_error_arrives_as_itself(self, cls):
        """Code, words and hint reach the client from the stage that met the fault."""
        with pytest.raises(PgnError) as raised:
            decode(encode_error(cls("7 apples, not 8", hint="count again"), "r1"))
        assert type(raised.value) is cls
        assert (raised.value.message, raised.value.hint) == ("7 apples, not 8", "count again")

    def test_an_error_carries_its_request(self):
        """Logs of gateway and stages are joined by the request id."""
        with pytest.raises(UnknownDataset) as raised:
            decode(encode_error(UnknownDataset("no data set 'x'"), "r1"))
        assert raised.value.request_id == "r1"


class TestRefused:
    @given(st.integers(0, len(WHOLE) - 1))
    def test_any_truncation_is_refused(self, length):
        """A connection that broke off gives no shorter answer."""
        with pytest.raises(MessageInvalid):
            decode(WHOLE[:length])

    @given(st.binary(max_size=300))
    def test_any_garbage_is_refused(self, data):
        """A stage can be called by anyone who reaches its port."""
        with pytest.raises(MessageInvalid, match="bytes are no message"):
            decode(data)

    @given(st.integers(0, len(WHOLE) - 1), st.integers(1, 255))
    def test_any_changed_byte_is_a_message_or_refused(self, place, value):
        """There is no check sum here, but no change may crash the reader."""
        damaged = bytearray(WHOLE)
        damaged[place] ^= value
        with suppress(MessageInvalid):
            decode(bytes(damaged))

    @pytest.mark.parametrize("field", ["request", "error"])
    @pytest.mark.parametrize("value", ["[" * 200_000, "3", "null", "{", 3, None, ["x"]])
    def test_hostile_metadata_is_refused(self, field, value):
        """Wrong types and nesting without end are refusals, not crashes."""
        with pytest.raises(MessageInvalid):
            decode(blob({field: value}))

    def test_a_header_nested_without_end_is_refused(self):
        """It exhausts a parser's stack, which is its own kind of error."""
        with pytest.raises(MessageInvalid):
            decode(struct.pack("<Q", 200_000) + b"[" * 200_000)

    @pytest.mark.parametrize(
        ("changes", "reason"),
        [
            ({"schema": 2}, "schema"),
            ({"targets": []}, "request: Value error, no data set is asked"),
            ({"prompts_from": "air"}, "prompts_from"),
            ({"targets": [{"dataset": "digits"}] * 65}, "targets"),
            ({"top_k": 0}, "top_k"),
            ({"reply": "poem"}, "reply"),
            ({"id": "x" * 129}, "id"),
            ({"surprise": 1}, "surprise"),
        ],
    )
    def test_a_wrong_request_is_refused_by_field(self, changes, reason):
        """Gateway and stages of different versions notice each other."""
        fields = {**json.loads(REQUEST.model_dump_json(by_alias=True)), **changes}
        with pytest.raises(MessageInvalid, match=f"the message's request is wrong: {reason}"):
            decode(blob({"request": json.dumps(fields)}))

    @pytest.mark.parametrize(
        ("images", "prompts", "reason"),
        [
            (IMAGES.astype(np.float32), (), "images are float32"),
            (IMAGES[0], (), r"images are uint8 \(4, 4, 3\)"),
            (IMAGES[..., :2], (), r"images are uint8 \(2, 4, 4, 2\)"),
            (IMAGES[:, :3], (), r"images are uint8 \(2, 3, 4, 3\), not uint8 \(M, S \+ R, S, 3\)"),
            (IMAGES, PROMPTS[:1], "prompts for 1 data sets; 2 were asked about"),
            (IMAGES, (*PROMPTS, PROMPTS[0]), "prompts for 3 data sets"),
            (IMAGES, (PROMPTS[0], PROMPTS[1].astype(np.float64)), "prompts are float64"),
            (IMAGES, (PROMPTS[0], PROMPTS[1][0]), "prompts are float16"),
            (IMAGES, (PROMPTS[0], PROMPTS[1][:1]), "prompts for 1 of 2 images"),
        ],
    )
    def test_arrays_have_to_fit_the_request(self, images, prompts, reason):
        """A wrong shape is met at the door, not deep in the ViT."""
        with pytest.raises(MessageInvalid, match=reason):
            decode(encode(Message(REQUEST, images, prompts)))

    @pytest.mark.parametrize("name", ["spare", "prompts.2", "prompts.x"])
    def test_a_stray_tensor_is_refused(self, name):
        """What nobody reads was meant for something."""
        tensors = {name: {"dtype": "F32", "shape": [1, 1, 1], "data_offsets": [0, 4]}}
        with pytest.raises(MessageInvalid, match="other than images and prompts"):
            decode(blob({"request": REQUEST.model_dump_json(by_alias=True)}, tensors, bytes(4)))

    @pytest.mark.parametrize("dtype", ["BF16", "F8_E4M3"])
    def test_a_type_that_numpy_lacks_is_refused(self, dtype):
        """safetensors knows more types than the reader's array library."""
        width = 2 if dtype == "BF16" else 1
        tensors = {"images": {"dtype": dtype, "shape": [1], "data_offsets": [0, width]}}
        with pytest.raises(MessageInvalid):
            decode(blob({"request": REQUEST.model_dump_json(by_alias=True)}, tensors, bytes(width)))
