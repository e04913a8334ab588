"""A backbone folder in int8: complete, verified, a backbone of its own."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from pgn.backbone_spec import SPEC_FILE, WEIGHTS_FILE, read_spec, write_spec
from pgn.cli import app
from pgn.errors import BackboneInvalid, UsageError
from pgn.method.backbone import load_backbone
from pgn.method.quantise import quantise_linears
from training.backbones.clip import TEXT_FILE
from training.backbones.quantise import quantise_folder

IMAGES = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def int8(backbone_folder: Path, tmp_path: Path) -> Path:
    """The toy backbone's folder, quantised."""
    quantise_folder(backbone_folder, tmp_path / "int8")
    return tmp_path / "int8"


def test_a_folder_loads_as_what_was_quantised(backbone_folder: Path, int8: Path) -> None:
    """Bit for bit: values and scales are stored, not made again."""
    wanted, found = load_backbone(backbone_folder), load_backbone(int8)
    quantise_linears(wanted.blocks)
    assert torch.equal(found(IMAGES), wanted(IMAGES))
    assert all(not parameter.requires_grad for parameter in found.parameters())


def test_the_file_is_much_smaller(backbone_folder: Path, int8: Path) -> None:
    """A quarter for the linear layers; a tower this small has other weights too."""
    whole, small = (load_file(folder / WEIGHTS_FILE) for folder in (backbone_folder, int8))
    assert {name for name, tensor in small.items() if tensor.dtype == torch.int8} == {
        name.removesuffix("_scale") for name in small.keys() - whole.keys()
    }
    linear = [name for name, tensor in small.items() if tensor.dtype == torch.int8]
    assert sum(small[n].nbytes for n in linear) * 4 == sum(whole[n].nbytes for n in linear)
    assert all(torch.equal(small[name], whole[name]) for name in whole.keys() - set(linear))


def test_the_command_prints_the_folder_and_its_digest(backbone_folder: Path, tmp_path: Path) -> None:
    """`pgn backbone quantise FOLDER --out FOLDER`."""
    out = tmp_path / "by-command"
    done = CliRunner().invoke(app, ["backbone", "quantise", str(backbone_folder), "--out", str(out)])
    assert done.output.split() == [str(out), read_spec(out)[1][:16]]


def test_it_is_another_backbone(backbone_folder: Path, int8: Path) -> None:
    """Bundles are bound to a digest, and answers differ: it must not pass for the float one."""
    (float_spec, float_digest), (spec, digest) = read_spec(backbone_folder), read_spec(int8)
    assert (spec.name, spec.precision, float_spec.precision) == ("toy-int8", "int8", "float")
    assert digest != float_digest


def test_a_float_backbone_written_again_keeps_its_digest(backbone_folder: Path, tmp_path: Path) -> None:
    """The field `precision` is younger than published backbones, whose bundles have to stay valid."""
    spec, digest = read_spec(backbone_folder)
    assert "precision" not in (backbone_folder / SPEC_FILE).read_text()
    assert write_spec(tmp_path, spec) == digest
    assert hashlib.sha256((backbone_folder / SPEC_FILE).read_bytes()).hexdigest() == digest


def test_a_text_tower_comes_along(backbone_folder: Path, tmp_path: Path) -> None:
    """CLIP in int8 still names classes by text."""
    clip = shutil.copytree(backbone_folder, tmp_path / "clip")
    (clip / TEXT_FILE).write_bytes(b"text")
    quantise_folder(clip, tmp_path / "out")
    assert (tmp_path / "out" / TEXT_FILE).read_bytes() == b"text"


def test_what_cannot_be_quantised_is_refused(backbone_folder: Path, int8: Path, tmp_path: Path) -> None:
    """Twice, or over the float weights."""
    with pytest.raises(UsageError, match="is int8 already"):
        quantise_folder(int8, tmp_path / "again")
    with pytest.raises(UsageError, match="holds the float weights"):
        quantise_folder(backbone_folder, backbone_folder)


def test_a_spec_and_weights_that_disagree_are_refused(backbone_folder: Path, int8: Path, tmp_path: Path) -> None:
    """Float weights under an int8 spec, or int8 weights under a float one, would load as nonsense."""
    for folder, precision in ((backbone_folder, "int8"), (int8, "float")):
        wrong = tmp_path / f"{precision} it says"
        wrong.mkdir()
        shutil.copyfile(folder / WEIGHTS_FILE, wrong / WEIGHTS_FILE)
        write_spec(wrong, read_spec(folder)[0].model_copy(update={"precision": precision}))
        with pytest.raises(BackboneInvalid, match="the weights do not fit the architecture"):
            load_backbone(wrong)


def test_a_scale_that_is_missing_is_noticed(int8: Path) -> None:
    """The values alone mean nothing."""
    weights = load_file(int8 / WEIGHTS_FILE)
    del weights["transformer.resblocks.0.attn.in_proj_weight_scale"]
    save_file(weights, int8 / WEIGHTS_FILE)
    digest = hashlib.sha256((int8 / WEIGHTS_FILE).read_bytes()).hexdigest()
    write_spec(int8, read_spec(int8)[0].model_copy(update={"weights_sha256": digest}))
    with pytest.raises(BackboneInvalid, match="the weights do not fit the architecture"):
        load_backbone(int8)
