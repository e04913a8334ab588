"""What the last release wrote is read, so that a rolling update works: old bundles, and messages on their way.

The files in tests/data/release-0.1 were written once, by `python -m tests.pgn.test_last_release FOLDER` with the code
of that time, and are never written again. A release with a new schema gets a folder of its own beside them.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pgn.bundle import read_bundle
from pgn.errors import NotAnImage
from pgn.index import Index, read_index
from pgn.message import Answer, Message, Request, StageState, Target, decode, encode, encode_error
from pgn.method.generator import load_generator
from pgn.method.head import load_head
from pgn.method.pixels import Normalise
from tests.pgn.stages.asking import SQUARES
from tests.toys import TOY_PREPROCESS, make_bundle

FOLDER = Path(__file__).parents[1] / "data" / "release-0.1"
TRACE = f"00-{'a' * 32}-{'b' * 16}-01"
FEATURES = torch.linspace(-1, 1, 16)[None]


def bundle_file() -> Path:
    (path,) = FOLDER.glob("*.safetensors")
    return path


def expected() -> dict[str, Any]:
    fields: dict[str, Any] = json.loads((FOLDER / "expected.json").read_text())
    return fields


def test_a_bundle_is_read_and_answers_as_it_did() -> None:
    """Same digest, same manifest, same prompts, same scores."""
    bundle = read_bundle(bundle_file(), backbone="ab" * 32)
    assert bundle.digest == expected()["digest"]
    assert json.loads(bundle.manifest.model_dump_json(by_alias=True)) == expected()["manifest"]
    written = decode((FOLDER / "prompts.message").read_bytes())
    generator = load_generator(bundle)
    with torch.inference_mode():
        prompts = generator(Normalise(TOY_PREPROCESS)(torch.from_numpy(written.images)))
        scores = load_head(bundle)(FEATURES)
    np.testing.assert_allclose(prompts.numpy(), written.prompts[0], atol=1e-4)
    np.testing.assert_allclose(scores.numpy(), expected()["scores"], atol=1e-5)


def _request(target: Target) -> Request:
    """What was asked then."""
    return Request(
        id="the-id",
        targets=(target,),
        top_k=3,
        reply="prompts",
        embedding=True,
        traceparent=TRACE,
        expires_at=4102444800.0,
    )


def test_a_request_is_read_as_it_was_meant() -> None:
    """The gateway of the last release may ask the stages of this one."""
    message = decode((FOLDER / "request.message").read_bytes())
    target = Target(dataset="pets", digest=expected()["digest"])
    assert message.request == _request(target)
    assert message.images is not None
    assert (message.images.dtype, message.images.shape) == (np.uint8, (2, 32, 32, 3))
    assert hashlib.sha256(message.images.tobytes()).hexdigest() == expected()["pixels"]


def test_prompts_are_read_as_they_were_written() -> None:
    """Stage pgn of the last release may answer for stage vit of this one."""
    message = decode((FOLDER / "prompts.message").read_bytes())
    assert [prompts.shape for prompts in message.prompts] == [(2, 4, 32)]
    assert message.prompts[0].dtype == np.float32


def test_an_error_is_read_as_the_error_that_it_was() -> None:
    """Class, words, hint and the request that it belongs to."""
    with pytest.raises(NotAnImage, match="no image") as raised:
        decode((FOLDER / "error.message").read_bytes())
    assert (raised.value.hint, raised.value.request_id) == ("send one", "the-id")


def test_a_request_without_the_younger_fields_is_read() -> None:
    """The first requests knew neither embeddings nor deadlines."""
    first = {"schema": 1, "id": "a", "targets": [{"dataset": "pets", "digest": None}], "top_k": 5, "reply": "all"}
    assert Request.model_validate(first) == Request(id="a", targets=(Target(dataset="pets"),))


def test_answers_and_states_are_read() -> None:
    """JSON that the gateway reads from either stage."""
    answer = Answer.model_validate(expected()["answer"])
    assert answer.results[0].predictions[0].label == "pets-0"
    assert StageState.model_validate(expected()["state"]).versions[0].state == "ready"


def test_an_index_is_read() -> None:
    """The only mutable file of a store; a new release finds it there."""
    index = read_index(FOLDER)
    assert index == Index.model_validate(expected()["index"])
    assert index.main_version("pets") == expected()["digest"]


def _write(folder: Path) -> None:
    """Write the files with the present code."""
    path = make_bundle(folder, "pets", "ab" * 32, seed=1)
    bundle = read_bundle(path)
    target = Target(dataset="pets", digest=bundle.digest)
    request = _request(target)
    images = SQUARES[:2]
    with torch.inference_mode():
        prompts = load_generator(bundle)(Normalise(TOY_PREPROCESS)(torch.from_numpy(images))).numpy()
        scores = load_head(bundle)(FEATURES).tolist()
    (folder / "request.message").write_bytes(encode(Message(request, images)))
    (folder / "prompts.message").write_bytes(encode(Message(request, images, (prompts,))))
    (folder / "error.message").write_bytes(encode_error(NotAnImage("no image", hint="send one"), "the-id"))
    version = {"digest": bundle.digest, "share": 1.0}
    index = {"schema": 1, "revision": 3, "backbone": "ab" * 32}
    index |= {"datasets": {"pets": {"versions": [version], "previous": ["c" * 64]}}}
    (folder / "index.json").write_text(json.dumps(index, indent=2) + "\n")
    result = {"image": 0, "dataset": "pets", "version": bundle.version, "unknown": True, "embedding": [0.5]}
    held = {"dataset": "pets", "digest": bundle.digest, "state": "ready", "tier": "host", "bytes": 1, "age_s": 2.5}
    state = {"schema": 1, "request_id": "the-id", "stage": "vit", "revision": 3, "device": "cpu"}
    fields = {
        "digest": bundle.digest,
        "manifest": json.loads(bundle.manifest.model_dump_json(by_alias=True)),
        "scores": scores,
        "pixels": hashlib.sha256(images.tobytes()).hexdigest(),
        "index": index,
        "answer": {
            "request_id": "the-id",
            "results": [{**result, "predictions": [{"label": "pets-0", "probability": 0.5}]}],
        },
        "state": {**state, "versions": [{**held, "last_error": None}], "server_threads": 50, "server_rss_bytes": 9},
    }
    (folder / "expected.json").write_text(json.dumps(fields, indent=1) + "\n")


if __name__ == "__main__":
    _write(Path(sys.argv[1]))
