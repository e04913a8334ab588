"""Weights that cannot be had: one line of ours, soon, and none of the libraries'."""

from __future__ import annotations

import logging
import socket
import time
from pathlib import Path

import pytest
from huggingface_hub import constants

from pgn.errors import UsageError
from tests.toys import make_images
from training.backbones.fetch import fetch
from training.backbones.hub import clear_hub_errors

CLIP, TIMM = "ViT-B-32-quickgelu", "vit_tiny_patch16_224"


@pytest.fixture
def dead_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """An address that refuses, and an empty cache."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}"
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    return address


@pytest.mark.parametrize(
    ("model", "tag", "says"),
    [
        (CLIP, "nope", r"open_clip has no weights 'nope' for ViT-B-32-quickgelu.*\(its tags are openai, .*"),
        ("ViT-M-32", "nope", r"and there is no such file \(it has no tags: give a weights file\)"),
        (f"{TIMM}.nope", None, r"timm has no weights 'nope' for vit_tiny_patch16_224 \(its tags are augreg_in21k, .*"),
    ],
)
def test_an_unknown_tag_is_told_beside_those_there_are(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], model: str, tag: str | None, says: str
) -> None:
    """In the one line; the libraries say nothing."""
    with pytest.raises(UsageError, match=says) as raised:
        fetch(model, tag, tmp_path / "vit")
    assert "\n" not in str(raised.value)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("model", [CLIP, TIMM])
def test_a_dead_hub_is_told_at_once(
    model: str, dead_hub: str, tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Its client would try for a minute, and log a line each time."""
    started = time.monotonic()
    with pytest.raises(UsageError, match=f"could not load {model}.*{dead_hub} does not answer.*weights file") as raised:
        fetch(model, None, tmp_path / "vit")
    assert time.monotonic() - started < 20
    assert "\n" not in str(raised.value)
    assert capfd.readouterr() == ("", "")
    assert not caplog.records
    assert not (tmp_path / "vit").exists()


def test_a_dead_hub_is_asked_nothing_more(dead_hub: str) -> None:
    """Inside, its client takes what is in the cache; afterwards everything is as it was."""
    with clear_hub_errors("toy", from_hub=True):
        assert constants.HF_HUB_OFFLINE
        assert not logging.getLogger("huggingface_hub").isEnabledFor(logging.ERROR)
    assert not constants.HF_HUB_OFFLINE
    assert logging.getLogger("huggingface_hub").isEnabledFor(logging.ERROR)


def test_a_weights_file_asks_no_hub(dead_hub: str) -> None:
    """What is wrong with it is told in the library's words, on one line."""
    with pytest.raises(UsageError, match=r"^toy: a b$"), clear_hub_errors("toy", from_hub=False):
        raise RuntimeError("a\n  b")


def test_weights_of_another_model_are_a_line_that_ends(dead_hub: str) -> None:
    """torch names every tensor that does not fit, 23,000 characters for a small ViT."""
    with (
        pytest.raises(UsageError, match=r"^toy: Error\(s\) in loading .* …$") as raised,
        clear_hub_errors("toy", from_hub=False),
    ):
        raise RuntimeError(
            "Error(s) in loading state_dict:\n" + "\n".join(f"size mismatch for block.{i}" for i in range(99))
        )
    assert len(str(raised.value)) < 300


def test_a_file_that_holds_no_weights_is_said_to_be_none(tmp_path: Path) -> None:
    """torch would give advice about an option that `pgn` does not have, and should not."""
    picture = tmp_path / "picture.png"
    picture.write_bytes(make_images(1)[0])
    with pytest.raises(UsageError, match=r"picture\.png'.*that is no file of weights"):
        fetch(TIMM, str(picture), tmp_path / "vit")
