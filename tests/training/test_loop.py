"""Training from images to a bundle, on a toy backbone."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pgn.bundle import read_bundle
from pgn.errors import BackboneInvalid, DiskFull, SetupError, UsageError
from pgn.method.backbone import load_backbone
from pgn.method.predictor import Predictor
from training import loop, run
from training.config import TrainConfig
from training.data.images import load_split
from training.data.registry import open_dataset
from training.loop import rate_factor, train
from training.scores import score
from training.setting import prepare

MakeConfig = Callable[..., TrainConfig]


def _log(folder: Path) -> list[dict[str, Any]]:
    """The epochs' records without their times."""
    records = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [{name: value for name, value in record.items() if name != "seconds"} for record in records]


def test_a_bundle_answers_with_the_accuracy_that_its_manifest_states(
    make_config: MakeConfig, backbone_folder: Path
) -> None:
    """Training's validation and test numbers are those of the predictor, so of what is served."""
    bundle = read_bundle(train(make_config()))
    predictor = Predictor(load_backbone(backbone_folder), bundle)
    for split in ("val", "test"):
        images = load_split(open_dataset("digits", Path("data")), split, predictor.backbone.spec.preprocess)
        found = score(predictor.probabilities(images.pixels(torch.arange(len(images)))), images.labels)
        assert bundle.manifest.metrics[split]["top1"] == pytest.approx(found.top1, abs=1e-5)
        assert bundle.manifest.metrics[split]["top5"] == pytest.approx(found.top5, abs=1e-5)


def test_the_manifest_tells_where_a_bundle_comes_from(make_config: MakeConfig) -> None:
    """Split sizes, seed, probe, command and versions: enough to judge it and to make it again."""
    manifest = read_bundle(train(make_config())).manifest
    assert manifest.metrics["split_sizes"] == {"train": 50, "val": 179, "test": 359}
    assert manifest.metrics["epoch"] in (1, 2)
    assert 0 < manifest.metrics["linear_probe"]["test"]["top1"] < 1
    assert manifest.training["command"].startswith("pgn train --dataset digits --method pgn")
    assert manifest.versions["torch"] == torch.__version__.split("+")[0]
    assert manifest.temperature > 0
    assert 0 < (manifest.unknown_threshold or 0) < 1


def test_the_profile_is_the_mean_mixture(make_config: MakeConfig) -> None:
    """Its shares sum to 1."""
    profile = read_bundle(train(make_config())).tensors["profile.mixture"]
    assert profile.shape == (6,)
    assert profile.sum() == pytest.approx(1, abs=1e-5)


def test_input_independent_prompts_go_the_same_way(make_config: MakeConfig) -> None:
    """The yardstick is a bundle too."""
    bundle = read_bundle(train(make_config(method="iip")))
    assert bundle.manifest.method == "iip"
    assert bundle.tensors["generator.prompts"].shape == (4, 32)


def test_a_union_states_the_accuracy_of_each_set(make_config: MakeConfig, class_folders: Path) -> None:
    """One number over two sets would hide the worse."""
    manifest = read_bundle(train(make_config(dataset=["digits", f"folder:{class_folders}"], name="both"))).manifest
    assert manifest.dataset == "both"
    assert manifest.class_sources == ("digits",) * 10 + ("my-pets",) * 2
    assert set(manifest.metrics["test"]["by_source"]) == {"digits", "my-pets"}


def test_no_backbone_weight_moves_or_gets_a_gradient(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, backbone_folder: Path
) -> None:
    """Frozen for real, bit by bit."""
    settings = []
    monkeypatch.setattr(loop, "prepare", lambda config: settings.append(prepare(config)) or settings[0])
    train(make_config())
    fresh = load_backbone(backbone_folder).state_dict()
    for name, parameter in settings[0].backbone.named_parameters():
        assert torch.equal(parameter, fresh[name])
        assert parameter.grad is None


def test_a_killed_run_ends_as_if_it_had_never_stopped(make_config: MakeConfig, tmp_path: Path) -> None:
    """SIGKILL in the middle of the second epoch; the losses are equal to the last bit, and so are the weights."""
    whole, killed = make_config(out=tmp_path / "whole"), make_config(out=tmp_path / "killed")
    script = (
        "import os, signal, sys, torch; torch.set_num_threads(1)\n"
        "from training import loop; from training.config import TrainConfig\n"
        "step, loop.CHECKPOINT_SECONDS = loop.train_step, 0.0\n"
        "def stopping(*given):\n"
        "    if given[-1] == 3: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return step(*given)\n"
        "loop.train_step = stopping\n"
        "loop.train(TrainConfig.model_validate_json(sys.argv[1]))\n"
    )
    done = subprocess.run([sys.executable, "-c", script, killed.model_dump_json()], capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    assert not list(killed.out.glob("*.safetensors"))

    resumed, straight = read_bundle(train(killed)), read_bundle(train(whole))
    assert _log(killed.out) == _log(whole.out)
    assert all((resumed.tensors[name] == array).all() for name, array in straight.tensors.items())


def test_a_run_stopped_while_validating_ends_the_same_too(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The epoch's steps are done, its record is not written: the moment when one of both is easily lost."""
    whole, stopped = make_config(out=tmp_path / "whole"), make_config(out=tmp_path / "stopped")
    train(whole)
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0.0)
    with monkeypatch.context() as patch:
        patch.setattr(loop, "validate", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            train(stopped)
    train(stopped)
    assert _log(stopped.out) == _log(whole.out)


def test_a_finished_run_says_so(make_config: MakeConfig, capsys: pytest.CaptureFixture[str]) -> None:
    """The same command again costs nothing and returns the same bundle."""
    first = train(make_config())
    capsys.readouterr()
    assert train(make_config()) == first
    assert "holds a finished run" in capsys.readouterr().err


def test_without_a_terminal_every_epoch_is_one_line(
    make_config: MakeConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    """A log file stays readable."""
    train(make_config())
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(":")[0] for line in lines] == ["linear probe", "epoch 1/2", "epoch 2/2", "bundle"]


def test_another_config_in_the_same_folder_is_refused(make_config: MakeConfig) -> None:
    """A checkpoint of other settings is never gone on from; the message names the difference."""
    train(make_config())
    with pytest.raises(UsageError, match=r"another config: seed 0 there, 1 here.*give another --out"):
        train(make_config(seed=1))


def test_a_loss_that_is_no_number_stops_with_a_clear_line(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And leaves the checkpoint of the last good epoch."""
    forward, calls = loop.AdaptedClassifier.forward, []

    def failing(self: Any, *given: Any, **options: Any) -> torch.Tensor:
        calls.append(1)
        return forward(self, *given, **options) * (float("nan") if len(calls) > 2 else 1.0)

    monkeypatch.setattr(loop.AdaptedClassifier, "forward", failing)
    with pytest.raises(SetupError, match=r"the loss is nan at step 3; the last checkpoint is kept.*lower the rates"):
        train(make_config())
    assert (make_config().out / "checkpoint.pt").exists()


def test_a_full_disk_stops_with_a_clear_line(make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second checkpoint finds no room; the first one is still whole, and the run goes on from it."""
    write, calls = run.write_atomically, []

    def failing(path: Path, data: bytes) -> None:
        calls.append(path)
        if len(calls) > 3:  # config, checkpoint and log of the first epoch
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(path, data)

    monkeypatch.setattr(run, "write_atomically", failing)
    with pytest.raises(DiskFull, match="no room left to write into"):
        train(make_config())
    monkeypatch.setattr(run, "write_atomically", write)
    assert train(make_config()).exists()
    assert len(_log(make_config().out)) == 2


def test_bfloat16_in_the_frozen_tower_trains_too(make_config: MakeConfig) -> None:
    """Weights stay float32; the bundle is one as ever."""
    assert read_bundle(train(make_config(bf16=True))).tensors["head.weight"].dtype == "float32"


def test_rates_rise_and_fall() -> None:
    """A linear rise over the warm-up, the peak at its end, then a cosine towards zero."""
    factors = [rate_factor(step, 100, 0.1) for step in range(100)]
    assert factors[0] == pytest.approx(0.1)
    assert factors[9] == factors[10] == 1.0
    assert factors[10:] == sorted(factors[10:], reverse=True)
    assert factors[-1] < 0.001


def test_class_prototypes_stay_what_they_were(make_config: MakeConfig) -> None:
    """A fixed head: only the prompts learn."""
    first = read_bundle(train(make_config(head="prototypes")))
    other = read_bundle(train(make_config(head="prototypes", seed=1, out=make_config().out / "other")))
    assert first.manifest.head.kind == "prototypes"
    assert "head.bias" not in first.tensors
    assert (first.tensors["head.weight"] == other.tensors["head.weight"]).all()


def test_class_texts_need_a_text_tower(make_config: MakeConfig) -> None:
    """The embedded backbone has none; the message names the way out."""
    with pytest.raises(BackboneInvalid, match=r"text\.safetensors.*train with a linear head"):
        train(make_config(head="text"))
