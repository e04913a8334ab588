"""Images as no camera makes them: each is read, or refused with a clear 4xx; nothing else happens."""

from __future__ import annotations

import io
import random
import struct
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.pgn.gateway.conftest import RunningGateway
from tests.served import served
from tests.servers import call, make_settings
from tests.toys import make_store

FORMATS = ("PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF", "PPM")


def _seeds() -> list[bytes]:
    """A picture in every format that is read."""
    pixels = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    encoded = []
    for file_format in FORMATS:
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, file_format)
        encoded.append(buffer.getvalue())
    return encoded


def _cut(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.randrange(len(data))]


def _flip_bits(data: bytes, rng: random.Random) -> bytes:
    damaged = bytearray(data)
    for _ in range(rng.choice((1, 4, 32, 256))):
        damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
    return bytes(damaged)


def _wrong_header(data: bytes, rng: random.Random) -> bytes:
    """The first bytes of one format before the rest of another."""
    other, length = rng.choice(_SEEDS), rng.choice((2, 4, 8, 16, 32))
    return other[:length] + data[length:]


def _splice(data: bytes, rng: random.Random) -> bytes:
    """A part is doubled, lost or zero."""
    start, length = rng.randrange(len(data)), rng.randrange(1, 200)
    part = rng.choice((b"", bytes(length), 2 * data[start : start + length]))
    return data[:start] + part + data[start + length :]


def _huge(data: bytes, rng: random.Random) -> bytes:
    """A PNG that announces up to 2^31 pixels a side, its checksums right, and holds a handful."""
    size = [rng.choice((1, 7_000, 60_000, 2**31 - 1)) for _ in range(2)]
    chunks = (b"IHDR" + struct.pack(">IIBBBBB", *size, 8, 2, 0, 0, 0), b"IDAT" + zlib.compress(bytes(100)), b"IEND")
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) for chunk in chunks
    )


_SEEDS = _seeds()
_MUTATIONS = (_cut, _flip_bits, _wrong_header, _splice, _huge)


def _mutated(number: int) -> bytes:
    """The image of this number; the same one every time."""
    rng = random.Random(number)
    return rng.choice(_MUTATIONS)(rng.choice(_SEEDS), rng)


def _ask_all(count: int, ask: Callable[[bytes], tuple[int, bytes]]) -> Counter[int]:
    """How often each status came; fails at the first one that blames the server, and on a body without a reason."""
    statuses: Counter[int] = Counter()
    for number in range(count):
        status, body = ask(_mutated(number))
        assert status in (200, 400, 413, 415, 422), f"image {number} is answered {status}: {body[:300]!r}"
        assert status == 200 or b'"hint"' in body
        statuses[status] += 1
    return statuses


def test_no_mutated_image_is_the_servers_fault(gateway: RunningGateway) -> None:
    """Four hundred of them through the gateway; enough that each kind of refusal comes."""

    def ask(image: bytes) -> tuple[int, bytes]:
        response = gateway.post(image, "digits")
        return response.status_code, response.content

    assert {200, 413, 415, 422} <= _ask_all(400, ask).keys()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_two_thousand_mutated_images_leave_the_real_server_as_it_was(tmp_path: Path) -> None:
    """With a deadline of two seconds nothing may come near; afterwards it answers, and no stage was troubled."""
    make_store(tmp_path / "store", ["digits"])
    settings = make_settings(tmp_path / "store", tmp_path / "settings", deadline_s=2)
    with served(settings) as server:
        server.wait_ready()
        statuses = _ask_all(2000, lambda image: call("POST", f"{server.url}/v1/datasets/digits/predict", image))
        print(dict(statuses))
        assert server.is_ready()
        assert server.metric('pgn_upstream_retries_total{stage="pgn"}') == 0
