"""Zero-shot and the linear head: the frozen ViT as it is."""

from __future__ import annotations

from collections.abc import Callable

import open_clip
import pytest
import torch

from pgn.errors import BackboneInvalid
from pgn.method.head import CLIP_LOGIT_SCALE
from tests.training.methods.conftest import CLIP_MODEL
from training.heads import LearnedHead, start_head
from training.methods import METHODS
from training.model import AdaptedClassifier
from training.setting import Setting

INPUTS = torch.randn(5, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def test_zero_shot_is_clips_own_answer(make_setting: Callable[..., Setting]) -> None:
    """The same logits as open_clip's two towers give for the filled template."""
    setting = make_setting("clip", method="zero-shot", template="the digit {}")
    model = AdaptedClassifier(METHODS["zero-shot"].start(setting), start_head(setting)).eval()
    with torch.random.fork_rng():
        torch.manual_seed(0)  # as the folder was made
        clip = open_clip.create_model(CLIP_MODEL).eval()
    texts = open_clip.get_tokenizer(CLIP_MODEL)([f"the digit {name}" for name in setting.dataset.classes])
    with torch.no_grad():
        image, text = (
            torch.nn.functional.normalize(f, dim=-1) for f in (clip.encode_image(INPUTS), clip.encode_text(texts))
        )
        wanted = clip.logit_scale.exp() * image @ text.T
        assert torch.allclose(model(setting.backbone, INPUTS, None), wanted, atol=1e-4)
    assert clip.logit_scale.exp() < CLIP_LOGIT_SCALE  # a fresh model's; it was read, not assumed


def test_zero_shot_needs_a_text_tower(make_setting: Callable[..., Setting]) -> None:
    """A tower alone cannot read class names; the message names the missing file."""
    with pytest.raises(BackboneInvalid, match=r"text\.safetensors"):
        start_head(make_setting(method="zero-shot"))


def test_the_linear_head_starts_as_the_probe_and_learns(make_setting: Callable[..., Setting]) -> None:
    """Its logits are the probe's before the first step."""
    setting = make_setting(method="linear")
    head = start_head(setting)
    features = setting.backbone(INPUTS)
    assert isinstance(head, LearnedHead)
    assert torch.allclose(head(features), setting.probe.head()(features), atol=1e-4)
    assert all(parameter.requires_grad for parameter in head.parameters())
