"""A run's config: complete, frozen, and writable as a command."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import ValidationError

from pgn import cli
from pgn.errors import UsageError
from training import loop
from training.config import TrainConfig, command, defaults_for, moved, plan


def test_what_is_not_given_follows_from_the_number_of_images(tmp_path: Path) -> None:
    """Fewer images, more epochs; None means "not given", as the command line passes it."""
    few = plan(["digits"], tmp_path, limit=5, epochs=None, library_rate=0.5)
    assert few.recipe == defaults_for(50).model_copy(update={"library_rate": 0.5})
    assert few.recipe.epochs > plan(["digits"], tmp_path).recipe.epochs


def test_the_encoder_learns_at_the_rate_that_suits_what_it_learns(tmp_path: Path) -> None:
    """Fast alone, slower among prompts, and slowest there once it knows something; what is given wins."""
    rates = {
        options: plan(["digits"], tmp_path, **dict(options)).recipe.encoder_rate
        for options in (
            (("method", "encoder"),),
            (("method", "pgn"),),
            (("encoder_first", 12),),
            (("encoder_first", 12), ("encoder_rate", 0.3)),
        )
    }
    assert list(rates.values()) == [0.005, 0.002, 0.0005, 0.3]


def test_default_prompts_fill_whole_rows_of_the_embedded_backbone() -> None:
    """Its grid is 8 patches wide; other numbers of prompts could not be sent as image rows."""
    assert all(defaults_for(count).num_prompts % 8 == 0 for count in (10, 1000, 100_000))


def test_every_fault_is_named(tmp_path: Path) -> None:
    """Not one at a time, and those of the recipe, which are options like the others, not after them."""
    wrong = {"seed": -1, "shift": 2.0, "warmup": 3, "epochs": 0, "batch_size": 0, "library_rate": 1e31}
    with pytest.raises(UsageError) as caught:
        plan(["digits"], tmp_path, **wrong)
    faults = caught.value.message.split("; ")
    assert sorted(fault.split(":")[0] for fault in faults) == sorted(
        f"{name} = {value}" for name, value in wrong.items()
    )


def test_a_seed_that_no_generator_takes_is_a_fault(tmp_path: Path) -> None:
    """Numbers made of it have to fit into 64 bits."""
    assert plan(["digits"], tmp_path, seed=2**31 - 1).seed == 2**31 - 1
    with pytest.raises(UsageError, match="seed = 99999999999999: Input should be less than or equal to 2147483647"):
        plan(["digits"], tmp_path, seed=99999999999999)


def test_processes_share_a_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A micro-batch for each that torchrun started, unless a number is given; the config then says so."""
    assert plan(["digits"], tmp_path).accumulate == 1
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert plan(["digits"], tmp_path).accumulate == 2
    assert plan(["digits"], tmp_path, accumulate=6).accumulate == 6


def test_a_config_cannot_be_changed(make_config: Callable[..., TrainConfig]) -> None:
    """What was saved beside the result is what ran."""
    with pytest.raises(ValidationError):
        make_config().seed = 3  # type: ignore[misc]


def test_the_command_names_every_choice_once() -> None:
    """The recipe in full, so that later defaults do not change what the command makes; the rest if it was changed."""
    config = TrainConfig(dataset=("digits", "folder:my pets"), out=Path("runs/x"), flip=False, limit=9)
    words = shlex.split(command(config))
    assert words[:6] == ["pgn", "train", "--dataset", "digits", "--dataset", "folder:my pets"]
    for flag, value in (("--limit", "9"), ("--library-rate", "0.01"), ("--seed", "0"), ("--out", "runs/x")):
        assert words[words.index(flag) + 1] == value
    assert "--no-flip" in words
    assert "--warmup" not in words


def test_the_command_makes_the_config_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """To the last digit of every rate, with switches in both directions."""
    odd = {"library_rate": 0.1 + 0.2, "clip_norm": 1e-7, "accumulate": 3, "patience": 4, "optimizer": "sgd"}
    odd |= {"schedule": "paper", "augment": "none", "compile": True, "bf16": False, "flip": True, "name": "x"}
    config = plan(["digits"], tmp_path / "run", limit=5, **odd)
    made = []
    monkeypatch.setattr(loop, "train", lambda config, **_: made.append(config) or Path("bundle"))
    cli.app(shlex.split(command(config))[1:], standalone_mode=False)
    assert made == [config]


def test_flags_without_effect_are_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The run goes on: nothing of its result is wrong, only what its user believes of it."""
    monkeypatch.setattr(loop, "train", lambda *_, **__: Path("bundle"))
    words = (
        f"train --dataset digits --out {tmp_path} --recipe small --method iip --library-size 512 --frame 4 --epochs 1"
    )
    cli.app(words.split(), standalone_mode=False)
    found = capsys.readouterr()
    assert found.err == "without effect: --library-size, --frame; --method iip does not read them\n"
    assert found.out == "bundle\n"


def test_what_has_moved_is_looked_for_by_its_last_name(tmp_path: Path) -> None:
    """Backbone and images of a run that was trained on another machine; what has not moved stays where it was."""
    (tmp_path / "cats.tar").touch()
    config = TrainConfig(dataset=("tar:/there/cats.tar", "folder:/there/dogs", "digits"), out=Path("out"))
    assert moved(config, backbone=None, data_dir=None) == config
    here = moved(config, backbone=Path("/vit"), data_dir=tmp_path)
    assert here.dataset == (f"tar:{tmp_path}/cats.tar", "folder:/there/dogs", "digits")
    assert (here.backbone, here.data_dir) == (Path("/vit"), tmp_path)
