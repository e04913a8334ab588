"""A backbone is what its spec says, weights included, or it is refused."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from pgn.backbone_spec import BackboneSpec, Preprocess, read_spec, verify_weights, write_spec
from pgn.errors import BackboneInvalid

WEIGHTS = b"as good as any other bytes"
SPEC = BackboneSpec(
    name="toy",
    library="open_clip",
    architecture={"image_size": 32, "patch_size": 8},
    activation="quick_gelu",
    preprocess=Preprocess(size=32, interpolation="bicubic", mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25)),
    weights_sha256=hashlib.sha256(WEIGHTS).hexdigest(),
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A backbone folder; what the weights mean does not matter to its contract."""
    (tmp_path / "model.safetensors").write_bytes(WEIGHTS)
    write_spec(tmp_path, SPEC)
    return tmp_path


def edit(folder: Path, **changes: object) -> None:
    """Change fields of backbone.json by hand; None removes one."""
    path = folder / "backbone.json"
    fields = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({name: value for name, value in fields.items() if value is not None}))


def test_reading_gives_what_was_written(folder):
    """Trainer and server rebuild the same tower and prepare images the same way."""
    assert read_spec(folder)[0] == SPEC


def test_the_digest_is_that_of_the_file(folder):
    """Anyone can check it with sha256sum, and it is the same on every machine."""
    digest = hashlib.sha256((folder / "backbone.json").read_bytes()).hexdigest()
    assert read_spec(folder)[1] == write_spec(folder, SPEC) == digest
    assert digest == "cec0a905e51a13d8d573e31f68636a0868eeb9155b9d2352ddb5419fdedd899e"


@pytest.mark.parametrize("changes", [{"activation": "gelu"}, {"weights_sha256": "0" * 64}, {"name": "other"}])
def test_another_backbone_has_another_digest(folder, changes):
    """Bundles are bound to the digest, so whatever changes an answer has to change it."""
    before = read_spec(folder)[1]
    edit(folder, **changes)
    assert read_spec(folder)[1] != before


@pytest.mark.parametrize("activation", [None, "relu"])
def test_weights_without_their_activation_are_refused(folder, activation):
    """CLIP's weights answer wrongly under the wrong one, and nothing else would tell."""
    edit(folder, activation=activation)
    with pytest.raises(BackboneInvalid, match="does not declare the weights' activation") as refusal:
        read_spec(folder)
    assert '"activation": "quick_gelu"' in refusal.value.hint


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"library": "keras"}, "library"),
        ({"schema": 2}, "schema"),
        ({"weights_sha256": "xyz"}, "weights_sha256"),
        ({"name": "../toy"}, "name"),
        ({"preprocess": {"size": 32}}, r"preprocess\.interpolation.*preprocess\.mean"),
        ({"surprise": 1}, "surprise"),
    ],
)
def test_a_wrong_field_is_named(folder, changes, reason):
    """All faults at once, so that one look mends the file."""
    edit(folder, **changes)
    with pytest.raises(BackboneInvalid, match=reason):
        read_spec(folder)


def test_a_spec_that_is_no_json_is_refused(folder):
    """A half-copied folder is met here first."""
    (folder / "backbone.json").write_text('{"schema": 1,')
    with pytest.raises(BackboneInvalid, match="Invalid JSON"):
        read_spec(folder)


def test_a_missing_spec_is_refused(tmp_path):
    """Weights alone do not say what they are."""
    with pytest.raises(BackboneInvalid, match=r"holds no backbone\.json \(`pgn backbone list` names.*fetch MODEL"):
        read_spec(tmp_path)


@pytest.mark.parametrize("name", ["nope", "ViT-B-32", "a-file"])
def test_a_folder_that_is_not_there_is_named(tmp_path, name):
    """Mistyped, a model's name in its place, or a relative path from elsewhere; and how folders are made."""
    (tmp_path / "a-file").write_text("")
    with pytest.raises(BackboneInvalid, match=f"there is no backbone folder .*/{name} \\(.*`pgn backbone fetch MODEL"):
        read_spec(tmp_path / name)


def test_good_weights_are_found(folder):
    """The path comes back only once the file is known to be right."""
    assert verify_weights(folder, SPEC) == folder / "model.safetensors"


@pytest.mark.parametrize("place", range(len(WEIGHTS)))
def test_a_changed_byte_of_the_weights_is_refused(folder, place):
    """The message shows both digests, what was met and what was expected."""
    damaged = bytearray(WEIGHTS)
    damaged[place] ^= 1
    (folder / "model.safetensors").write_bytes(damaged)
    with pytest.raises(BackboneInvalid, match=f"its spec says {SPEC.weights_sha256[:16]}"):
        verify_weights(folder, SPEC)


def test_missing_weights_are_refused(folder):
    """An interrupted download leaves a spec without weights."""
    (folder / "model.safetensors").unlink()
    with pytest.raises(BackboneInvalid, match=r"model\.safetensors cannot be read"):
        verify_weights(folder, SPEC)
