"""Training from images to a bundle, on a toy backbone."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from pgn.bundle import read_bundle
from pgn.errors import BackboneInvalid, DataInvalid, DiskFull, OutOfMemory, PgnError, SetupError, UsageError
from pgn.method.backbone import load_backbone
from pgn.method.predictor import Predictor
from tests.toys import write_images
from training import export, loop, run, setting
from training.config import TrainConfig
from training.data import images
from training.data.images import load_split
from training.data.registry import open_dataset
from training.loop import train
from training.result import read_result
from training.scores import score
from training.setting import prepare

MakeConfig = Callable[..., TrainConfig]
ROOT = Path(__file__).parents[2]


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
    """Over the prompts of all training images: what drift is measured from."""
    config = make_config()
    bundle = read_bundle(train(config))
    setting = prepare(config)
    predictor = Predictor(setting.backbone, bundle)
    inputs = setting.backbone.normalise(setting.train.pixels(torch.arange(len(setting.train))))
    with torch.no_grad():
        expected = predictor.generator.mixture(inputs).mean((0, 1))
    assert bundle.tensors["profile.mixture"] == pytest.approx(expected.numpy(), abs=1e-5)


@pytest.mark.parametrize("option", [{"keep": 0.5}, {"augment": "none"}, {"shift": 0.5}])
def test_a_step_sees_what_the_config_says(make_config: MakeConfig, tmp_path: Path, option: dict[str, Any]) -> None:
    """A share of the patches, changed or unchanged images: other losses from the first epoch on."""
    usual, other = (make_config(epochs=1, out=tmp_path / name) for name in ("usual", "other"))
    train(usual)
    train(other.model_copy(update=option))
    assert _log(usual.out)[0]["train_loss"] != _log(other.out)[0]["train_loss"]


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
    monkeypatch.setattr(loop, "prepare", lambda *given: settings.append(prepare(*given)) or settings[0])
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
        "step, loop.CHECKPOINT_SECONDS = loop.find_gradients, 0.0\n"
        "def stopping(*given):\n"
        "    if given[-1] == 3: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return step(*given)\n"
        "loop.find_gradients = stopping\n"
        "loop.train(TrainConfig.model_validate_json(sys.argv[1]))\n"
    )
    done = subprocess.run([sys.executable, "-c", script, killed.model_dump_json()], capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    assert not list(killed.out.glob("*.safetensors"))

    resumed, straight = read_bundle(train(killed)), read_bundle(train(whole))
    assert _log(killed.out) == _log(whole.out)
    assert all((resumed.tensors[name] == array).all() for name, array in straight.tensors.items())


def test_the_encoder_may_learn_alone_first(make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a run of its own below the PGN's; the PGN starts with that encoder, and counts its seconds."""
    monkeypatch.setattr(loop, "time", SimpleNamespace(monotonic=count().__next__))  # a second between two looks at it
    config = make_config(encoder_first=3)
    bundle = read_bundle(train(config.model_copy(update={"recipe": config.recipe.model_copy(update={"epochs": 1})})))
    alone = load_file(config.out / "encoder/weights.safetensors")
    seconds = [result.seconds for folder in (config.out, config.out / "encoder") if (result := read_result(folder))]
    assert len(_log(config.out / "encoder")) == 3
    own = [json.loads(line)["seconds"] for line in (config.out / "log.jsonl").read_text().splitlines()]
    assert seconds[0] == sum(own) + seconds[1]
    assert seconds[1] > 0
    name = "stem.1.weight"
    moved = np.abs(bundle.tensors[f"generator.encoder.{name}"] - alone[f"adapter.encoder.{name}"].numpy()).max()
    assert 0 < moved <= 2 * 2 * config.recipe.encoder_rate  # two steps of AdamW away, no more


def test_a_run_stopped_in_its_first_part_goes_on_there(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The encoder's run is finished first, and the result is that of a run that never stopped."""
    whole, stopped = (make_config(encoder_first=2, out=tmp_path / name) for name in ("whole", "stopped"))
    train(whole)
    with monkeypatch.context() as patch:
        patch.setattr(loop, "validate", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            train(stopped)
    assert not (stopped.out / "config.json").exists()
    train(stopped)
    assert _log(stopped.out) == _log(whole.out)
    assert _log(stopped.out / "encoder") == _log(whole.out / "encoder")


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


def test_a_run_that_was_stopped_in_validation_does_no_step_again(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also in the last one, and whoever pressed Ctrl-C is told what is kept."""
    config = make_config(epochs=1)
    with monkeypatch.context() as patch:
        patch.setattr(loop, "validate", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            train(config)
    assert capsys.readouterr().err.splitlines()[-1] == "interrupted; the same command goes on from step 2"
    monkeypatch.setattr(loop, "find_gradients", lambda *_: pytest.fail("a step is done again"))
    train(config)
    assert len(_log(config.out)) == 1


def test_whoever_stops_a_run_before_its_first_checkpoint_is_told_so(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing is lost but what is said to be."""
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        train(make_config())
    said = "interrupted; the same command starts again: nothing was saved yet"
    assert capsys.readouterr().err.splitlines()[-1] == said


def test_a_finished_run_says_so(make_config: MakeConfig, capsys: pytest.CaptureFixture[str]) -> None:
    """What it found, in one line, as at its end; the same command again costs nothing and returns the same bundle."""
    first = train(make_config())
    result = read_result(first.parent)
    assert result is not None
    probe, top1 = result.linear_probe, 100 * result.test["top1"]
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith(f"{first.parent}: epoch {result.best_epoch} of 2 chosen by validation; validation ")
    assert last.endswith(f", test {top1:.1f} % (linear probe {100 * probe['test']['top1']:.1f} %)")
    assert train(make_config()) == first
    assert capsys.readouterr().err.splitlines()[-1].endswith(last.partition(": ")[2])


def test_a_start_that_is_not_there_is_told_before_any_image_is_decoded(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Of a large set, decoding takes hours."""
    monkeypatch.setattr(loop, "prepare", lambda *_: pytest.fail("images were decoded"))
    with pytest.raises(UsageError, match=f"--start-from {tmp_path}/gone does not exist"):
        train(make_config(start_from=(tmp_path / "gone",)))


def test_without_a_terminal_every_epoch_is_one_line(
    make_config: MakeConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    """A log file stays readable."""
    train(make_config())
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(":")[0] for line in lines] == ["linear probe", "epoch 1/2", "epoch 2/2", str(make_config().out)]


def test_a_mistyped_backbone_claims_no_folder(make_config: MakeConfig, tmp_path: Path) -> None:
    """The mended command would be refused: another config is there."""
    with pytest.raises(BackboneInvalid, match=r"there is no backbone folder .*nope"):
        train(make_config(backbone=tmp_path / "nope"))
    assert not make_config().out.exists()


@pytest.mark.parametrize(
    "mistake", [{"start_from": ["nope"]}, {"encoder": "mlp", "crop": 48}, {"head": "text"}, {"accumulate": 40}]
)
def test_options_that_cannot_work_claim_no_folder(make_config: MakeConfig, mistake: dict[str, Any]) -> None:
    """Known only once images and backbone are there; the mended command finds the folder free."""
    with pytest.raises(PgnError):
        train(make_config(**mistake))
    assert train(make_config(epochs=1)).exists()


def test_the_encoder_does_not_learn_in_a_folder_of_another_run(make_config: MakeConfig) -> None:
    """Its epochs would be for nothing, and lie in that folder."""
    train(make_config(epochs=1))
    with pytest.raises(UsageError, match="encoder_first 0 there, 2 here"):
        train(make_config(epochs=1, encoder_first=2))
    assert not (make_config().out / "encoder").exists()


def test_an_encoder_that_learned_otherwise_is_not_taken(make_config: MakeConfig) -> None:
    """It is finished, and the run that it was for never began."""
    for file in train(make_config(encoder_first=1)).parent.glob("*.*"):
        file.unlink()
    assert read_result(make_config().out / "encoder")
    with pytest.raises(UsageError, match="epochs 1 there, 2 here"):
        train(make_config(encoder_first=2))


def test_a_last_write_that_fails_leaves_one_bundle(make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next try writes another, for it is made later; what else lies in the folder stays."""
    make_config().out.mkdir()
    other = train(make_config(out=make_config().out / "other", seed=1))
    kept = other.rename(make_config().out / other.name)
    with monkeypatch.context() as patch:
        patch.setattr(run.RunFolder, "finish", lambda *_: (_ for _ in ()).throw(DiskFull("no room")))
        patch.setattr(export, "_versions", lambda: {"torch": "another"})
        with pytest.raises(DiskFull):
            train(make_config())
    bundle = train(make_config())
    assert {*bundle.parent.glob("*.safetensors")} == {bundle, kept}


def test_an_encoder_that_sees_less_than_asked_for_is_told(
    make_config: MakeConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    """The backbone's images are 32 px; a method without encoder has nothing to tell."""
    train(make_config(input_size=64, epochs=1))
    assert "the encoder sees 32 px, not 64: the backbone's images have no more" in capsys.readouterr().err
    train(make_config(input_size=64, epochs=1, method="iip", out=make_config().out / "iip"))
    assert "encoder sees" not in capsys.readouterr().err


def test_another_config_in_the_same_folder_is_refused(make_config: MakeConfig) -> None:
    """A checkpoint of other settings is never gone on from; the message names the difference."""
    train(make_config())
    with pytest.raises(UsageError, match=r"another config: seed 0 there, 1 here.*give another --out"):
        train(make_config(seed=1))


def _fail_once(monkeypatch: pytest.MonkeyPatch, forward_pass: int, failure: Callable[[torch.Tensor], Any]) -> None:
    """The model's forward pass of that number, from 1, gives what `failure` makes of the logits."""
    forward, calls = loop.AdaptedClassifier.forward, []

    def failing(self: Any, *given: Any) -> torch.Tensor:
        calls.append(1)
        logits = forward(self, *given)
        return failure(logits) if len(calls) == forward_pass else logits

    monkeypatch.setattr(loop.AdaptedClassifier, "forward", failing)


def test_a_loss_that_is_no_number_stops_with_a_clear_line(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before anything has moved."""
    _fail_once(monkeypatch, 3, lambda logits: logits * float("nan"))
    with pytest.raises(SetupError, match=r"the loss is nan at step 3 \(the same command tries again.*lower the rates"):
        train(make_config())


HUGE = {"library_rate": 1e30, "encoder_rate": 1e30, "head_rate": 1e30, "warmup": 0.0, "batch_size": 50}


@pytest.mark.parametrize("method", ["pgn", "iip", "vp"])
@pytest.mark.parametrize("epochs", [1, 2])
def test_a_last_step_that_overflows_is_no_result(make_config: MakeConfig, method: str, epochs: int) -> None:
    """An epoch is one step here, so no further loss would tell; and no checkpoint starts the next run from NaN."""
    config = make_config(method=method, epochs=epochs, **HUGE)
    with pytest.raises(SetupError, match=r"after step 1 \(the same command tries again.*lower the rates"):
        train(config)
    assert not (config.out / "result.json").exists()
    assert not (config.out / "checkpoint.pt").exists()


def test_weights_that_are_no_numbers_are_found_before_validation(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At their own step, so that a checkpoint between two epochs never holds them."""
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0.0)
    step, calls = torch.optim.AdamW.step, []

    def failing(self: torch.optim.AdamW, *given: Any) -> None:
        step(self, *given)
        calls.append(1)
        if len(calls) == 3:
            self.param_groups[0]["params"][0].data.fill_(float("nan"))

    config = make_config()
    monkeypatch.setattr(torch.optim.AdamW, "step", failing)
    with pytest.raises(SetupError, match="the weights are no longer numbers after step 3"):
        train(config)
    held = torch.load(config.out / "checkpoint.pt")
    assert held["progress"]["step"] == 2
    assert all(tensor.isfinite().all() for tensor in held["model"].values())


def _out_of_memory(_: torch.Tensor) -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


def _no_memory(_: torch.Tensor) -> None:
    raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes. Error code 12")


@pytest.mark.parametrize("failure", [_out_of_memory, _no_memory])
def test_too_little_memory_stops_with_a_clear_line(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, failure: Callable[[torch.Tensor], None]
) -> None:
    """On a GPU as on a CPU; the hint says which flags ask for less at once and keep the step as it is."""
    _fail_once(monkeypatch, 1, failure)
    with pytest.raises(OutOfMemory, match=r"micro-batches of 25 images.*--batch-size 12 --accumulate 2"):
        train(make_config())


def _interrupt(_: torch.Tensor) -> None:
    raise KeyboardInterrupt


def test_images_that_do_not_fit_are_not_blamed_on_the_batch(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Smaller micro-batches would not help there."""
    monkeypatch.setattr(setting, "fit_probe", lambda *_, **__: _out_of_memory(torch.empty(0)))
    with pytest.raises(OutOfMemory, match=r"no memory left for images and linear probe \(take fewer images: --limit"):
        train(make_config(cache=tmp_path / "cache"))


def test_images_decoded_as_they_are_used_train_the_same(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A split too large for memory changes nothing but the time, also where a step has several micro-batches."""
    kept, late = (make_config(out=tmp_path / name, batch_size=12, accumulate=2) for name in ("kept", "late"))
    train(kept)
    monkeypatch.setattr(images, "CACHE_LIMIT_BYTES", 0)
    train(late)
    assert _log(late.out) == _log(kept.out)


@pytest.mark.parametrize("is_finished", [True, False])
def test_a_run_is_not_gone_on_with_on_other_images(
    make_config: MakeConfig, class_folders: Path, monkeypatch: pytest.MonkeyPatch, is_finished: bool
) -> None:
    """Neither is the old bundle handed out for them, nor do half of the steps come from other batches."""
    config = make_config(dataset=[f"folder:{class_folders}"])
    with monkeypatch.context() as patch:
        if not is_finished:
            _fail_once(patch, 2, _interrupt)
        with nullcontext() if is_finished else pytest.raises(KeyboardInterrupt):
            train(config)
    write_images(class_folders / "bird", 10, seed=3)
    with pytest.raises(UsageError, match=r"the images of .* have changed since it was begun: train 10 -> 15.*\+bird"):
        train(config)


@pytest.mark.parametrize("failure", [_out_of_memory, _interrupt, lambda logits: logits * float("nan")])
def test_whatever_stops_a_step_the_run_goes_on_from_that_very_step(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, failure: Callable[[torch.Tensor], Any]
) -> None:
    """Step 4 is tried twice; its first forward pass has left no trace, not even in BatchNorm's statistics."""
    whole, stopped = make_config(out=tmp_path / "whole"), make_config(out=tmp_path / "stopped")
    straight = read_bundle(train(whole))
    with monkeypatch.context() as patch:
        _fail_once(patch, 4, failure)
        with pytest.raises((SetupError, KeyboardInterrupt)):
            train(stopped)
    assert torch.load(stopped.out / "checkpoint.pt")["progress"]["step"] == 3
    resumed = read_bundle(train(stopped))
    assert _log(stopped.out) == _log(whole.out)
    assert all((resumed.tensors[name] == array).all() for name, array in straight.tensors.items())


def test_dropout_resumes_as_well(make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A method's own chance is drawn from seed and step too."""
    given = {"method": "vpt-deep", "prompt_dropout": 0.5}
    whole, stopped = make_config(out=tmp_path / "whole", **given), make_config(out=tmp_path / "stopped", **given)
    train(whole)
    with monkeypatch.context() as patch:
        _fail_once(patch, 4, _interrupt)
        with pytest.raises(KeyboardInterrupt):
            train(stopped)
    train(stopped)
    assert _log(stopped.out) == _log(whole.out)


def test_a_full_disk_stops_with_a_clear_line(make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second checkpoint finds no room; the first one is still whole, and the run goes on from it."""
    write, calls = run.write_atomically, []

    def failing(path: Path, data: bytes) -> None:
        calls.append(path)
        if len(calls) > 4:  # images, config, checkpoint and log of the first epoch
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


def test_class_prototypes_stay_what_they_were(make_config: MakeConfig) -> None:
    """A fixed head: only the prompts learn."""
    first = read_bundle(train(make_config(head="prototypes")))
    other = read_bundle(train(make_config(head="prototypes", seed=1, out=make_config().out / "other")))
    assert first.manifest.head.kind == "prototypes"
    assert "head.bias" not in first.tensors
    assert (first.tensors["head.weight"] == other.tensors["head.weight"]).all()


def test_class_texts_need_a_text_tower(make_config: MakeConfig) -> None:
    """The embedded backbone has none; the message names the way out."""
    with pytest.raises(BackboneInvalid, match=r"text\.safetensors.*train with --head linear"):
        train(make_config(head="text"))


def test_a_step_of_small_micro_batches_is_the_step_of_a_large_one(make_config: MakeConfig, tmp_path: Path) -> None:
    """Without BatchNorm, which sees each micro-batch alone: the same images, changed in the same way, same weights."""
    given = {"method": "iip", "augment": "paper"}
    large = read_bundle(train(make_config(out=tmp_path / "large", batch_size=25, **given)))
    small = read_bundle(train(make_config(out=tmp_path / "small", batch_size=5, accumulate=5, **given)))
    for name, array in large.tensors.items():
        assert small.tensors[name] == pytest.approx(array, abs=1e-5)


def test_two_processes_do_what_one_does_with_two_micro_batches(make_config: MakeConfig, tmp_path: Path) -> None:
    """Losses and weights within 1e-4, BatchNorm's running statistics among them; only the first process speaks.

    By SGD, whose steps are as long as the gradients: AdamW would hide a wrong factor.
    """
    rates = {"library_rate": 0.1, "encoder_rate": 0.1, "head_rate": 0.1}
    alone = make_config(out=tmp_path / "alone", batch_size=13, accumulate=2, optimizer="sgd", **rates)
    shared = alone.model_copy(update={"out": tmp_path / "shared"})
    flags = ["--backbone", shared.backbone, "--cache", shared.cache, "--out", shared.out, "--batch-size", 13]
    flags += ["--encoder-width", 4, "--input-size", 32, "--num-prompts", 4, "--library-size", 6, "--epochs", 2]
    flags += ["--optimizer", "sgd", *(word for name in rates for word in (f"--{name.replace('_', '-')}", 0.1))]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["-m", "pgn", "train", "--dataset", "digits", "--limit", "5", "--no-bf16", *map(str, flags)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    one, two = read_bundle(train(alone)), read_bundle(Path(done.stdout.strip()))
    assert done.stderr.count("epoch 2/2") == 1
    assert (shared.out / "config.json").read_text() == (alone.out / "config.json").read_text()
    for ours, theirs in zip(_log(alone.out), _log(shared.out), strict=True):
        assert theirs == pytest.approx(ours, abs=1e-4)
    for name, array in one.tensors.items():
        assert two.tensors[name] == pytest.approx(array, abs=1e-4), name


def test_patience_ends_a_run_that_no_longer_improves(make_config: MakeConfig) -> None:
    """At a rate of next to nothing no epoch beats the first; a second start finds the run finished."""
    tiny = {"library_rate": 1e-12, "encoder_rate": 1e-12, "head_rate": 1e-12}
    config = make_config(method="iip", epochs=30, patience=2, **tiny)
    bundle = train(config)
    result = read_result(config.out)
    assert result is not None
    assert result.epochs == result.best_epoch + 2 < 30
    assert train(config) == bundle


def test_the_papers_optimiser_and_schedule_train_too(make_config: MakeConfig) -> None:
    """With one rate for all parts and clipped gradients."""
    rates = {"library_rate": 0.1, "encoder_rate": 0.1, "head_rate": 0.1}
    config = make_config(optimizer="sgd", schedule="paper", weight_decay=0.0, augment="paper", clip_norm=1.0, **rates)
    assert read_bundle(train(config)).manifest.metrics["epochs"] == 2


def test_a_clipped_gradient_moves_the_prompts_less(make_config: MakeConfig, tmp_path: Path) -> None:
    """SGD's step is the gradient, so a norm of next to nothing stands still."""
    given = {"method": "iip", "optimizer": "sgd", "weight_decay": 0.0, "library_rate": 1.0}
    changes = {"start": {"library_rate": 1e-12}, "free": {}, "held": {"clip_norm": 1e-6}}
    start, free, held = (
        read_bundle(train(make_config(out=tmp_path / name, **{**given, **change}))).tensors["generator.prompts"]
        for name, change in changes.items()
    )
    assert abs(held - start).max() < 1e-4 < abs(free - start).max()


def test_a_method_that_is_not_served_leaves_weights_and_a_result(make_config: MakeConfig) -> None:
    """No bundle, which nobody could serve; the result has the same fields as every other."""
    config = make_config(method="vpt-shallow")
    assert train(config) == config.out / "result.json"
    result = read_result(config.out)
    assert result is not None
    assert (result.bundle, result.weights, result.served) == (None, "weights.safetensors", False)
    assert result.adapted_parameters == 4 * 32
    assert result.trained_parameters == result.adapted_parameters + 10 * 16 + 10
    assert (config.out / "weights.safetensors").exists()
    assert not (config.out / "checkpoint.pt").exists()


def test_a_result_says_what_the_bundles_manifest_says(make_config: MakeConfig) -> None:
    """Two places, the same numbers; the union's shares too where there are any."""
    config = make_config()
    manifest, result = read_bundle(train(config)).manifest, read_result(config.out)
    assert result is not None
    assert result.input_only
    assert result.test == manifest.metrics["test"]
    assert result.linear_probe == manifest.metrics["linear_probe"]
    assert result.best_epoch == manifest.metrics["epoch"]
    assert result.backbone_parameters == sum(p.numel() for p in load_backbone(config.backbone).parameters())


def test_a_set_smaller_than_a_batch_is_one_batch(make_config: MakeConfig) -> None:
    """Fifty images, batches of a thousand: a step an epoch."""
    config = make_config(batch_size=1000)
    train(config)
    assert [record["step"] for record in _log(config.out)] == [1, 2]


def test_a_set_too_small_for_its_micro_batches_is_named(make_config: MakeConfig) -> None:
    """BatchNorm needs two images in each."""
    with pytest.raises(DataInvalid, match="50 training images do not give each of 26 micro-batches two"):
        train(make_config(accumulate=26))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute")  # torch's compiler asks its own tensors
def test_a_compiled_tower_trains_to_the_same_losses(make_config: MakeConfig, tmp_path: Path) -> None:
    """Up to the rounding of fused operations."""
    plain, compiled = make_config(out=tmp_path / "plain"), make_config(out=tmp_path / "compiled", compile=True)
    train(plain)
    train(compiled)
    for ours, theirs in zip(_log(plain.out), _log(compiled.out), strict=True):
        assert theirs == pytest.approx(ours, abs=1e-3)
