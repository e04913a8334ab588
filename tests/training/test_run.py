"""A run's folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from pgn.errors import ArtefactError, SetupError
from training.config import TrainConfig
from training.run import Progress, RunFolder
from training.scores import Scores


def _scores(balanced: float, loss: float) -> Scores:
    return Scores(images=10, top1=balanced, top5=1.0, loss=loss, balanced=balanced)


def test_the_best_epoch_is_kept_and_ties_go_to_the_lower_loss() -> None:
    """Validation accuracy is coarse on few images; the loss tells equal ones apart."""
    model, progress = nn.Linear(1, 1), Progress()
    for number, (accuracy, loss) in enumerate([(0.5, 1.0), (0.8, 0.9), (0.8, 0.7), (0.8, 0.8), (0.6, 0.1)]):
        model.bias.data.fill_(number)
        progress.close_epoch(_scores(accuracy, loss), model, seconds=1.0)
    assert progress.best_epoch == 3
    assert progress.best["bias"].item() == 2.0


def test_a_damaged_checkpoint_is_named(make_config: Callable[..., TrainConfig]) -> None:
    """With what to do; it is never passed over in silence."""
    config = make_config()
    folder = RunFolder(config)
    (config.out / "checkpoint.pt").write_bytes(b"nonsense")
    model = nn.Linear(1, 1)
    with pytest.raises(ArtefactError, match=r"checkpoint\.pt cannot be resumed from.*delete it"):
        folder.resume(model, torch.optim.AdamW(model.parameters()))


def test_a_folder_that_cannot_be_made_is_named(make_config: Callable[..., TrainConfig], tmp_path: Path) -> None:
    """Here --out lies below a file."""
    (tmp_path / "file").write_text("")
    with pytest.raises(SetupError, match=r"cannot be written: Not a directory"):
        RunFolder(make_config(out=tmp_path / "file" / "run"))
