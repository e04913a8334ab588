"""What can be seen of a running training."""

from __future__ import annotations

import re
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pgn.errors import SetupError
from training import loop
from training.config import TrainConfig
from training.loop import train
from training.run import Progress
from training.watch import Watch

MakeConfig = Callable[..., TrainConfig]


def test_prometheus_can_ask_a_running_training(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Asked while it validates: the line on the screen names an address, and that it is not the only one."""
    validate, answers = loop.validate, []

    def asking(*given: Any) -> Any:
        address = re.search(r"metrics: (http\S+) \(and at every other address", capsys.readouterr().err)
        if address:
            answers.append(urllib.request.urlopen(address[1]).read().decode())
        return validate(*given)

    monkeypatch.setattr(loop, "validate", asking)
    train(make_config(), metrics_port=0)
    assert "pgn_training_step 2.0" in answers[0]


def test_tensorboard_has_every_epoch_once_after_a_resume(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four curves: loss and accuracy of training and validation."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    close, calls = Progress.close_epoch, []

    def stopping(self: Progress, *given: Any, **named: Any) -> None:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        close(self, *given, **named)

    monkeypatch.setattr(Progress, "close_epoch", stopping)
    with pytest.raises(KeyboardInterrupt):
        train(make_config(epochs=3), tensorboard=True)
    train(make_config(epochs=3), tensorboard=True)
    found = accumulator.EventAccumulator(str(make_config().out / "tensorboard"))
    found.Reload()
    assert sorted(found.Tags()["scalars"]) == ["loss/train", "loss/val", "top1/train", "top1/val"]
    assert [event.step for event in found.Scalars("loss/val")] == [1, 2, 3]


def test_tensorboard_that_is_not_installed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is optional, and comes with an extra of its own."""
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(SetupError, match=r"TensorBoard is not installed.*pgn-serve\[tensorboard\]"):
        Watch(1, Progress(), shown=True, tensorboard=tmp_path, metrics_port=None)


def test_only_the_first_process_shows_anything(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The others would say it again, and fight for the port."""
    with Watch(1, Progress(), shown=False, tensorboard=tmp_path / "board", metrics_port=0) as watch:
        watch.step(Progress(step=1), [0.1])
    assert capsys.readouterr().err == ""
    assert not (tmp_path / "board").exists()
