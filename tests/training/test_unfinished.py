"""Going on from a run that has not ended."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pgn.errors import BundleIncompatible, SetupError, UsageError
from tests.toys import make_backbone
from training import loop
from training.config import TrainConfig
from training.heads import start_head
from training.loop import train
from training.methods import METHODS
from training.methods.prompted import PromptedAdapter
from training.setting import Setting, prepare

MakeConfig = Callable[..., TrainConfig]


@pytest.fixture
def diverged(make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Path, str]]:
    """A run whose loss is no number in its second epoch, or in its first; and what it said."""

    def run(*, epoch: int = 2, **options: Any) -> tuple[Path, str]:
        config, find_gradients = make_config(**options), loop.find_gradients

        def failing(*given: Any) -> tuple[float, int]:
            if given[4] == epoch - 1:
                raise loop.overflow(config, "the loss is nan at", given[5], given[4])
            return find_gradients(*given)

        with monkeypatch.context() as patch:
            patch.setattr(loop, "find_gradients", failing)
            with pytest.raises(SetupError) as said:
                train(config)
        return config.out, str(said.value)

    return run


def _starts(config: TrainConfig) -> tuple[Setting, torch.nn.Module, torch.nn.Module]:
    setting = prepare(config)
    adapter = METHODS[config.method].start(setting)
    assert isinstance(adapter, PromptedAdapter)
    return setting, adapter.generator, start_head(setting)


@pytest.mark.parametrize("options", [{}, {"method": "iip"}, {"library": "rgb"}, {"train_head": False}])
def test_another_run_goes_on_from_the_best_epoch_of_one_that_diverged(
    diverged: Callable[..., tuple[Path, str]], make_config: MakeConfig, tmp_path: Path, options: dict[str, Any]
) -> None:
    """With generator and head exactly as they were after it; the error says how to."""
    out, said = diverged(**options)
    assert said.endswith(
        f"lower the rates, e.g. --library-rate, and give another --out and --start-from {out}, "
        "to go on from its best epoch)"
    )
    mended = make_config(**options, start_from=(out,), library_rate=1e-4, out=tmp_path / "mended")
    _, generator, head = _starts(mended)
    best = torch.load(out / "checkpoint.pt")["progress"]["best"]
    own = "adapter.generator."
    for name, tensor in best.items():
        if name.startswith(own) and not name.endswith("num_batches_tracked"):
            assert torch.equal(generator.state_dict()[name.removeprefix(own)], tensor), name
    weight = best["head.weight"] if "head.weight" in best else best["head.head.weight"]
    assert torch.allclose(next(head.parameters()), weight, atol=1e-5)
    train(mended)


def test_a_run_without_a_finished_epoch_has_nothing_to_give(
    diverged: Callable[..., tuple[Path, str]], make_config: MakeConfig, tmp_path: Path
) -> None:
    """Neither does the error offer it."""
    out, said = diverged(epoch=1)
    assert said.endswith("lower the rates, e.g. --library-rate, and give another --out)")
    with pytest.raises(UsageError, match=f"the run in {out} has not finished an epoch"):
        _starts(make_config(start_from=(out,), out=tmp_path / "next"))


def test_a_method_that_makes_no_bundle_has_nothing_to_give(
    diverged: Callable[..., tuple[Path, str]], make_config: MakeConfig, tmp_path: Path
) -> None:
    """As its finished run has nothing to give."""
    out, said = diverged(method="vpt-deep")
    assert "--start-from" not in said
    with pytest.raises(UsageError, match="is of vpt-deep, which makes no bundle"):
        _starts(make_config(start_from=(out,), out=tmp_path / "next"))


def test_a_run_on_another_backbone_is_refused(
    diverged: Callable[..., tuple[Path, str]], make_config: MakeConfig, tmp_path: Path
) -> None:
    """Its prompts are tokens of another ViT."""
    out, _ = diverged()
    make_backbone(tmp_path / "other", seed=9)
    with pytest.raises(BundleIncompatible, match="is on another backbone than"):
        _starts(make_config(start_from=(out,), backbone=tmp_path / "other", out=tmp_path / "next"))


def test_the_same_epoch_has_the_same_version(
    diverged: Callable[..., tuple[Path, str]], make_config: MakeConfig, tmp_path: Path
) -> None:
    """As a bundle has; what is said of it can be told apart."""
    out, _ = diverged()
    one, other = (_starts(make_config(start_from=(out,), out=tmp_path / "next"))[0].starts[0] for _ in range(2))
    assert one.version == other.version
