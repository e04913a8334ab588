"""A bundle opens exactly as it was written, or not at all, and then says why."""

from __future__ import annotations

import hashlib
import json
import struct
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from safetensors.numpy import save

from pgn.bundle import (
    BackboneRef,
    GeneratorSpec,
    HeadSpec,
    Manifest,
    file_name,
    read_bundle,
    write_atomically,
    write_bundle,
)
from pgn.errors import BundleCorrupt, BundleIncompatible, BundleInvalid, BundleMissing

ROOT = Path(__file__).parents[2]
BACKBONE = "ab" * 32
MANIFEST = Manifest(
    dataset="digits",
    classes=("zero", "one", "two"),
    method="pgn",
    generator=GeneratorSpec(encoder="resnet10", num_prompts=2, library_size=4, embed_dim=8, input_size=32),
    head=HeadSpec(kind="linear", features=5),
    backbone=BackboneRef(name="toy", digest=BACKBONE),
    metrics={"top1": 0.5},
    created="2026-01-01T00:00:00Z",
)


def arrays() -> dict[str, np.ndarray]:
    """Tensors that fit MANIFEST; the generator's inner ones are not the bundle's business."""
    shapes = {
        "generator.library.tokens": (4, 8),
        "generator.to_logits.weight": (8, 6),
        "profile.mixture": (4,),
        "head.weight": (3, 5),
        "head.bias": (3,),
    }
    generator = np.random.default_rng(0)
    return {name: generator.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def forge(folder: Path, data: bytes, dataset: str = "digits") -> Path:
    """Any bytes as a file whose name and digest agree, as a careless or hostile tool would write it."""
    path = folder / file_name(dataset, hashlib.sha256(data).hexdigest())
    path.write_bytes(data)
    return path


def manifest_json(**changes: object) -> str:
    return json.dumps({**json.loads(MANIFEST.model_dump_json(by_alias=True)), **changes})


@pytest.fixture
def bundle_file(tmp_path: Path) -> Path:
    """A bundle as `write_bundle` writes it."""
    return write_bundle(tmp_path, MANIFEST, arrays())


class TestIdentity:
    def test_reading_gives_what_was_written(self, bundle_file):
        """Training and serving see the same numbers, to the bit."""
        bundle = read_bundle(bundle_file, backbone=BACKBONE)
        assert bundle.manifest == MANIFEST
        assert bundle.tensors.keys() == arrays().keys()
        assert all(np.array_equal(bundle.tensors[name], array) for name, array in arrays().items())

    def test_the_name_is_the_digest(self, bundle_file):
        """Who has the name can check the content without asking anyone."""
        digest = hashlib.sha256(bundle_file.read_bytes()).hexdigest()
        bundle = read_bundle(bundle_file)
        assert (bundle.digest, bundle.version) == (digest, digest[:16])
        assert bundle_file.name == f"digits.{digest[:16]}.safetensors"

    def test_the_same_content_has_the_same_bytes(self, bundle_file, tmp_path):
        """Order and memory layout of the tensors are no content; a second training run can be compared by name."""
        shuffled = {name: np.asfortranarray(array) for name, array in reversed(arrays().items())}
        again = write_bundle(tmp_path / "elsewhere", MANIFEST, shuffled)
        assert (again.name, again.read_bytes()) == (bundle_file.name, bundle_file.read_bytes())

    def test_another_temperature_is_another_bundle(self, bundle_file, tmp_path):
        """Whatever changes an answer changes the name."""
        other = write_bundle(tmp_path, MANIFEST.model_copy(update={"temperature": 2.0}), arrays())
        assert other != bundle_file

    def test_fixed_prompts_have_no_library(self, tmp_path):
        """Input-independent prompts are one tensor, without a mixture to profile."""
        spec = GeneratorSpec(encoder="none", num_prompts=2, library_size=0, embed_dim=8, input_size=32)
        head = HeadSpec(kind="prototypes", features=5, logit_scale=100.0)
        manifest = MANIFEST.model_copy(update={"method": "iip", "generator": spec, "head": head})
        tensors = {"generator.prompts": np.ones((2, 8), np.float32), "head.weight": np.ones((3, 5), np.float32)}
        assert read_bundle(write_bundle(tmp_path, manifest, tensors)).manifest == manifest

    @pytest.mark.parametrize(
        "path", sorted((ROOT / "model_store/datasets").glob("*/*.safetensors")), ids=lambda p: p.name
    )
    def test_a_shipped_bundle_written_again_has_the_same_name(self, tmp_path, path):
        """Options that came later say nothing in it, so no byte of it changes, and old readers can read new bundles."""
        shipped = read_bundle(path)
        assert write_bundle(tmp_path, shipped.manifest, shipped.tensors).read_bytes() == path.read_bytes()


def with_generator(**changes: object) -> Manifest:
    """MANIFEST with other parts in its generator."""
    return Manifest.model_validate_json(manifest_json(generator={**MANIFEST.generator.model_dump(), **changes}))


class TestParts:
    @pytest.mark.parametrize(
        "options",
        [
            {"encoder": "resnet18"},
            {"encoder": "mlp", "crop": 10, "hidden": 20},
            {"projection": "mlp", "hidden": 20},
            {"library": "rgb", "patch_size": 4},
            {"library": "none", "library_size": 0},
        ],
    )
    def test_each_generator_of_the_paper_can_be_bundled(self, tmp_path, options):
        """What is needed to build it again stands in the manifest."""
        manifest, tensors = with_generator(**options), arrays()
        if manifest.generator.library != "latent":
            del tensors["generator.library.tokens"]
        if manifest.generator.library == "rgb":
            tensors["generator.library.pixel_logits"] = np.zeros((4, 3, 4, 4), np.float32)
        if manifest.generator.library == "none":
            del tensors["profile.mixture"]
        bundle = read_bundle(write_bundle(tmp_path, manifest, tensors))
        assert bundle.manifest == manifest
        assert {name: getattr(bundle.manifest.generator, name) for name in options} == options

    def test_options_that_say_nothing_are_not_written(self):
        """A manifest of the first kind looks as it always did."""
        assert list(MANIFEST.generator.model_dump()) == [
            "encoder",
            "encoder_width",
            "num_prompts",
            "library_size",
            "embed_dim",
            "library",
            "input_size",
            "antialias",
        ]

    @pytest.mark.parametrize(
        ("options", "reason"),
        [
            ({"encoder": "vit"}, "generator.encoder"),
            ({"encoder": "mlp", "hidden": 20}, "crop is given if and only if encoder is 'mlp'"),
            ({"encoder": "mlp", "crop": 10}, "hidden is given if and only if"),
            ({"hidden": 20}, "hidden is given if and only if"),
            ({"crop": 10}, "crop is given if and only if"),
            ({"encoder": "mlp", "crop": 33, "hidden": 20}, "a crop of 33 px does not fit into an input of 32 px"),
            ({"library": "rgb"}, "patch_size is given if and only if library is 'rgb'"),
            ({"patch_size": 4}, "patch_size is given if and only if"),
            ({"library": "none"}, "library_size is 0 if and only if"),
            ({"encoder": "none", "library_size": 0, "library": "rgb", "patch_size": 4}, "encoder 'none' has neither"),
            ({"encoder": "none", "library_size": 0, "projection": "mlp", "hidden": 4}, "encoder 'none' has neither"),
        ],
    )
    def test_parts_that_do_not_fit_are_refused(self, options, reason):
        """A number that nobody reads is a mistake of whoever wrote it."""
        with pytest.raises(ValidationError, match=reason):
            with_generator(**options)

    def test_an_rgb_library_of_another_shape_is_refused(self, tmp_path):
        """N patches of three colours and P x P pixels."""
        manifest, tensors = with_generator(library="rgb", patch_size=4), arrays()
        del tensors["generator.library.tokens"]
        tensors["generator.library.pixel_logits"] = np.zeros((4, 3, 4, 5), np.float32)
        with pytest.raises(
            BundleInvalid, match=r"pixel_logits has shape \(4, 3, 4, 5\), the manifest says \(4, 3, 4, 4\)"
        ):
            write_bundle(tmp_path, manifest, tensors)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes]:
    """A bundle's path and bytes, for tests that put other bytes there."""
    path = write_bundle(tmp_path_factory.mktemp("bundle"), MANIFEST, arrays())
    return path, path.read_bytes()


class TestDamage:
    @given(place=st.floats(0, 1, exclude_max=True), value=st.integers(1, 255))
    def test_any_changed_byte_is_refused(self, written, place, value):
        """Header, manifest or weights: no byte may change unnoticed."""
        path, data = written
        damaged = bytearray(data)
        damaged[int(place * len(damaged))] ^= value
        path.write_bytes(damaged)
        with pytest.raises(BundleCorrupt, match="its name says"):
            read_bundle(path)

    @given(length=st.floats(0, 1, exclude_max=True))
    def test_any_truncation_is_refused(self, written, length):
        """A copy that broke off is the most common damage."""
        path, data = written
        path.write_bytes(data[: int(length * len(data))])
        with pytest.raises(BundleCorrupt):
            read_bundle(path)

    @given(data=st.binary(max_size=300))
    def test_any_bytes_under_their_own_digest_are_invalid(self, written, data):
        """A digest proves that a file is whole, not that it is a bundle."""
        path = forge(written[0].parent, data)
        with pytest.raises(BundleInvalid, match="holds no manifest"):
            read_bundle(path)
        path.unlink()


class TestRefused:
    def test_a_missing_file_is_named(self, tmp_path):
        """The operator sees which file to bring back."""
        with pytest.raises(BundleMissing, match=f"digits.{'0' * 16}.safetensors cannot be read"):
            read_bundle(tmp_path / file_name("digits", "0" * 64))

    @pytest.mark.parametrize("name", ["digits.safetensors", "Digits.0123456789abcdef.safetensors", "digits.pt", "x"])
    def test_a_file_without_its_digest_in_the_name_is_refused(self, bundle_file, name):
        """Renamed by hand, a bundle cannot prove what it is."""
        with pytest.raises(BundleInvalid, match="is not named"):
            read_bundle(bundle_file.rename(bundle_file.with_name(name)))

    def test_a_bundle_under_another_data_sets_name_is_refused(self, bundle_file):
        """The digest stays right when the first part of the name is changed."""
        path = bundle_file.rename(bundle_file.with_name(bundle_file.name.replace("digits", "letters")))
        with pytest.raises(BundleInvalid, match="holds the data set 'digits'"):
            read_bundle(path)

    def test_another_backbone_is_refused_with_both_named(self, bundle_file):
        """Prompts mean nothing to a ViT that they were not trained on, and it would answer all the same."""
        with pytest.raises(BundleIncompatible, match=r"on backbone toy \(abababab.*not on cdcdcd"):
            read_bundle(bundle_file, backbone="cd" * 32)

    @pytest.mark.parametrize(
        ("changes", "reason"),
        [
            ({"schema": 2}, "schema"),
            ({"dataset": "../etc"}, "dataset"),
            ({"classes": ["one"]}, "classes"),
            ({"classes": ["a", "a", "b"]}, "class names are not distinct"),
            ({"class_sources": ["digits"]}, "class_sources and classes differ in length"),
            ({"method": "magic"}, "method"),
            ({"temperature": 0}, "temperature"),
            ({"temperature": "Infinity"}, "temperature"),
            ({"unknown_threshold": 1.5}, "unknown_threshold"),
            ({"backbone": {"name": "toy", "digest": "AB"}}, "backbone.digest"),
            ({"surprise": 1}, "surprise"),
        ],
    )
    def test_a_broken_manifest_is_refused_by_field(self, tmp_path, changes, reason):
        """The message names the field, so that whoever wrote the file can mend it."""
        path = forge(tmp_path, save(arrays(), metadata={"manifest": manifest_json(**changes)}))
        with pytest.raises(BundleInvalid, match=reason):
            read_bundle(path)

    @pytest.mark.parametrize("size", [{"encoder": "none"}, {"library_size": 0}, {"num_prompts": 10**9}])
    def test_an_impossible_generator_is_refused(self, tmp_path, size):
        """Sizes are limited before anything is built from them."""
        generator = {**MANIFEST.generator.model_dump(), **size}
        path = forge(tmp_path, save(arrays(), metadata={"manifest": manifest_json(generator=generator)}))
        with pytest.raises(BundleInvalid, match="generator"):
            read_bundle(path)

    def test_a_safetensors_file_without_manifest_is_refused(self, tmp_path):
        """Weights alone do not say what they are."""
        with pytest.raises(BundleInvalid, match="holds no manifest"):
            read_bundle(forge(tmp_path, save(arrays())))

    @pytest.mark.parametrize("header", [b"[" * 200_000, b'{"__metadata__": 3}', b"null"])
    def test_a_hostile_header_is_refused(self, tmp_path, header):
        """Nesting without end exhausts a parser's stack, which is its own kind of error."""
        with pytest.raises(BundleInvalid, match="holds no manifest"):
            read_bundle(forge(tmp_path, struct.pack("<Q", len(header)) + header))

    @pytest.mark.parametrize("dtype", ["F64", "BF16", "F8_E4M3", "BOOL"])
    def test_a_tensor_of_another_type_is_refused(self, tmp_path, dtype):
        """Types that NumPy lacks are refused like those that it has."""
        width = {"F64": 8, "BF16": 2}.get(dtype, 1)
        tensors = {"head.weight": {"dtype": dtype, "shape": [3, 5], "data_offsets": [0, 15 * width]}}
        header = json.dumps({"__metadata__": {"manifest": manifest_json()}, **tensors}).encode()
        with pytest.raises(BundleInvalid):
            read_bundle(forge(tmp_path, struct.pack("<Q", len(header)) + header + bytes(15 * width)))

    @pytest.mark.parametrize(
        ("name", "array", "reason"),
        [
            ("head.weight", None, "tensor head.weight is missing"),
            ("head.bias", None, "tensor head.bias is missing"),
            ("profile.mixture", None, "tensor profile.mixture is missing"),
            ("generator.library.tokens", None, "tensor generator.library.tokens is missing"),
            ("head.weight", np.ones((3, 6), np.float32), r"shape \(3, 6\), the manifest says \(3, 5\)"),
            ("head.weight", np.ones((3, 5), np.float16), "float16, not float32"),
            ("head.bias", np.array([1, np.nan, 1], np.float32), "not finite"),
            ("generator.to_logits.weight", np.full((8, 6), np.inf, np.float32), "not finite"),
            ("spare", np.ones(1, np.float32), "tensor spare has no place"),
        ],
    )
    def test_tensors_have_to_fit_the_manifest_both_ways(self, tmp_path, name, array, reason):
        """What may not be written may not be read either: files come from other tools too."""
        tensors = {key: value for key, value in {**arrays(), name: array}.items() if value is not None}
        with pytest.raises(BundleInvalid, match=reason):
            write_bundle(tmp_path, MANIFEST, tensors)
        with pytest.raises(BundleInvalid, match=reason):
            read_bundle(forge(tmp_path, save(tensors, metadata={"manifest": manifest_json()})))


class TestMapping:
    def test_tensors_are_views_into_one_mapping_of_the_file(self, bundle_file):
        """Both stages and every reader after them share the page cache's copy; 500 bundles are in memory once."""
        tensors = read_bundle(bundle_file).tensors
        with Path("/proc/self/maps").open() as maps:
            (mapped,) = (line.split()[0] for line in maps if line.rstrip().endswith(str(bundle_file)))
        start, end = (int(each, 16) for each in mapped.split("-"))
        for array in tensors.values():
            assert start <= array.ctypes.data < array.ctypes.data + array.nbytes <= end
            assert array.flags.aligned

    def test_the_mapping_ends_with_its_last_reader(self, bundle_file):
        """A version that is served no more costs nothing more."""
        tensors = read_bundle(bundle_file).tensors
        assert str(bundle_file) in Path("/proc/self/maps").read_text()
        del tensors
        assert str(bundle_file) not in Path("/proc/self/maps").read_text()

    def test_writing_to_a_tensor_reaches_neither_file_nor_other_readers(self, bundle_file):
        """Whoever trains on from a bundle changes his own copy."""
        first, second = read_bundle(bundle_file), read_bundle(bundle_file)
        first.tensors["head.bias"][:] = 7
        assert np.array_equal(second.tensors["head.bias"], arrays()["head.bias"])
        assert np.array_equal(read_bundle(bundle_file).tensors["head.bias"], arrays()["head.bias"])

    def test_a_file_that_is_replaced_stays_for_those_who_have_it(self, bundle_file):
        """Publication is by rename: a served bundle is never pulled from under a request."""
        tensors = read_bundle(bundle_file).tensors
        write_atomically(bundle_file, b"short")
        assert np.array_equal(tensors["head.weight"], arrays()["head.weight"])
        with pytest.raises(BundleCorrupt):
            read_bundle(bundle_file)

    def test_a_header_of_any_length_can_be_read(self, tmp_path):
        """Other writers do not pad it, and torch wants aligned numbers."""
        header = {"__metadata__": {"manifest": manifest_json()}}
        body = b""
        for name, array in arrays().items():
            end = len(body) + array.nbytes
            header[name] = {"dtype": "F32", "shape": array.shape, "data_offsets": [len(body), end]}
            body += array.tobytes()
        text = json.dumps(header).encode()
        text += b" " * (1 + -len(text) % 8)
        tensors = read_bundle(forge(tmp_path, struct.pack("<Q", len(text)) + text + body)).tensors
        assert all(np.array_equal(tensors[name], array) for name, array in arrays().items())
        assert all(array.flags.aligned for array in tensors.values())

    @pytest.mark.parametrize(
        ("change", "reason"),
        [
            ({"data_offsets": [4, 64]}, "cannot be the bytes"),
            ({"data_offsets": [0, 64]}, "cannot be the bytes"),
            ({"data_offsets": [0, 6000]}, "cannot be the bytes"),
            ({"shape": [1500], "data_offsets": [0, 6000]}, "not a safetensors file"),
            ({"shape": [-15], "data_offsets": [0, -60]}, "not a safetensors file"),
            ({"data_offsets": [0]}, "not a safetensors file"),
            ({"data_offsets": "no"}, "not a safetensors file"),
            ({"shape": [-3, -5]}, "not a safetensors file"),
            ({"shape": [3.0, 5]}, "not a safetensors file"),
            ({"shape": [10**30, 0]}, "not a safetensors file"),
            ({"shape": [3, 4], "data_offsets": [0, 48]}, "its header describes 48"),
            ({"shape": None}, "not a safetensors file"),
            ({"dtype": ["F32"]}, "not a safetensors file"),
        ],
    )
    def test_a_header_that_does_not_describe_the_bytes_is_refused(self, tmp_path, change, reason):
        """Nothing outside the file is ever read, whatever its header claims."""
        entry = {"dtype": "F32", "shape": [3, 5], "data_offsets": [0, 60], **change}
        header = json.dumps({"__metadata__": {"manifest": manifest_json()}, "head.weight": entry}).encode()
        with pytest.raises(BundleInvalid, match=reason):
            read_bundle(forge(tmp_path, struct.pack("<Q", len(header)) + header + bytes(60)))


class TestWriting:
    def test_a_failed_write_leaves_the_old_file_whole(self, tmp_path, monkeypatch):
        """A full disk or a power cut costs the new file, never the old."""
        path = tmp_path / "index.json"
        path.write_bytes(b"old")
        monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        with pytest.raises(OSError, match="No space left"):
            write_atomically(path, b"new")
        assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [("index.json", b"old")]


def test_writers_of_one_file_do_not_meet(tmp_path: Path) -> None:
    """Pods that share a volume may have the same process number, as threads have."""
    path, contents = tmp_path / "file", [bytes([number]) * 100_000 for number in range(8)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(partial(write_atomically, path), contents * 5))
    assert path.read_bytes() in contents
    assert [file.name for file in tmp_path.iterdir()] == ["file"]
