"""Where heads start."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from training.config import TrainConfig
from training.heads import start_head
from training.setting import prepare

MakeConfig = Callable[..., TrainConfig]


@pytest.fixture
def texts(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The sentences that the text tower was asked for; it answers at random."""
    asked: list[str] = []

    def embed(_: Path, classes: Sequence[str], template: str) -> tuple[Tensor, float]:
        asked.extend(template.replace("{}", name) for name in classes)
        return torch.randn(len(classes), 16), 100.0

    monkeypatch.setattr("training.backbones.clip.class_texts", embed)
    monkeypatch.setattr("training.backbones.clip.require_text_tower", lambda _: None)
    return asked


class TestTextHead:
    def test_a_set_has_its_own_sentence(self, texts: list[str], make_config: MakeConfig) -> None:
        """Unless --template says otherwise."""
        start_head(prepare(make_config(head="text")))
        assert texts[9] == "a photo of the digit 9"

    def test_in_a_union_each_class_has_that_of_its_set(
        self, texts: list[str], make_config: MakeConfig, class_folders: Path
    ) -> None:
        """One sentence for all would be right for none; and the bundle then names no sentence."""
        (class_folders / "dog").rename(class_folders / "7")
        setting = prepare(make_config(dataset=["digits", f"folder:{class_folders}"], head="text"))
        start_head(setting)
        assert texts[7:] == [*(f"a photo of the digit {n}" for n in (7, 8, 9)), "a photo of a 7", "a photo of a cat"]
        assert setting.template is None

    def test_a_template_of_the_users_takes_the_place_of_all(
        self, texts: list[str], make_config: MakeConfig, class_folders: Path
    ) -> None:
        """Also then without the prefix that tells equal names apart."""
        (class_folders / "dog").rename(class_folders / "7")
        config = make_config(dataset=["digits", f"folder:{class_folders}"], head="text", template="one {}")
        setting = prepare(config)
        start_head(setting)
        assert texts[7:] == ["one 7", "one 8", "one 9", "one 7", "one cat"]
        assert setting.template == "one {}"


def test_a_state_that_is_loaded_leaves_the_probe_alone(make_config: MakeConfig) -> None:
    """The head starts as the probe; what another run has learned is written into the head, not into the yardstick."""
    setting = prepare(make_config())
    before = setting.probe.head().weight.clone()
    head = start_head(setting)
    head.load_state_dict({name: tensor + 1 for name, tensor in head.state_dict().items()})
    assert torch.equal(setting.probe.head().weight, before)
