"""The bundle: a trained PGN with its head as one immutable, content-addressed safetensors file.

A bundle is data only. Its file name ends in the first 16 hex digits of the SHA-256 over its bytes; reading checks
that, then the manifest, then every tensor against the manifest. No torch here: arrays are NumPy's, and views into the
mapped file, so all processes that read a bundle share one copy of it. The byte-level contract is docs/bundle.md.
"""

from __future__ import annotations

import hashlib
import json
import math
import mmap
import os
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)
from safetensors.numpy import save
from typing_extensions import Self

from pgn.errors import BundleCorrupt, BundleIncompatible, BundleInvalid, BundleMissing

NAME_PATTERN: Final = r"^[a-z0-9][a-z0-9_-]{0,62}$"
_FILE_NAME: Final = re.compile(r"^(?P<dataset>[a-z0-9][a-z0-9_-]{0,62})\.(?P<digest>[0-9a-f]{16})\.safetensors$")
_MANIFEST_KEY: Final = "manifest"
_TYPES: Final[dict[str, np.dtype[Any]]] = {"F16": np.dtype("<f2"), "F32": np.dtype("<f4"), "F64": np.dtype("<f8")}
_YOUNGER_FIELDS: Final = ("projection", "hidden", "crop", "patch_size")  # of GeneratorSpec; absent means default

Tensors = Mapping[str, NDArray[np.float32]]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, protected_namespaces=())


class GeneratorSpec(_Record):
    """The shape of a prompt generator; enough to rebuild it before its weights are loaded.

    An encoder looks at the image, a projection turns its features into mixing logits, a library turns the mixture into
    prompts. `encoder` "none" means input-independent prompts: K free vectors and nothing else. `library` "none" means
    that the projection writes the prompts' values itself.

    Attributes:
        encoder_width: Channels of the first layer of "resnet10"; the other encoders do not have it.
        num_prompts: K.
        library_size: N; 0 if and only if there is no library.
        embed_dim: D, width of the backbone's tokens.
        library: "latent" tokens, or "rgb" patches of pixels that become tokens in the backbone's patch projection.
        input_size: Side in pixels of what the encoder sees.
        antialias: How the backbone's input is resized to that, if it differs.
        projection: One "linear" layer, or an "mlp" with one hidden layer.
        hidden: Width of hidden layers, that of the encoder "mlp" and that of the projection "mlp"; None without.
        crop: Side in pixels of the centre crop that the encoder "mlp" reads; None without.
        patch_size: P, side of the backbone's patches in pixels, for the library "rgb"; None without.
    """

    encoder: Literal["resnet10", "resnet18", "mlp", "none"]
    encoder_width: int = Field(16, gt=0, le=1024)
    num_prompts: int = Field(gt=0, le=4096)
    library_size: int = Field(ge=0, le=65536)
    embed_dim: int = Field(gt=0, le=16384)
    library: Literal["latent", "rgb", "none"] = "latent"
    input_size: int = Field(gt=0, le=4096)
    antialias: bool = False
    projection: Literal["linear", "mlp"] = "linear"
    hidden: int | None = Field(None, gt=0, le=65536)
    crop: int | None = Field(None, gt=0, le=4096)
    patch_size: int | None = Field(None, gt=0, le=256)

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        if self.encoder == "none" and (self.library, self.projection) != ("latent", "linear"):
            raise ValueError("encoder 'none' has neither a library nor a projection to choose")
        if (self.library_size == 0) != (self.encoder == "none" or self.library == "none"):
            raise ValueError("library_size is 0 if and only if encoder or library is 'none'")
        if (self.hidden is None) == ("mlp" in (self.encoder, self.projection)):
            raise ValueError("hidden is given if and only if encoder or projection is 'mlp'")
        if (self.crop is None) == (self.encoder == "mlp"):
            raise ValueError("crop is given if and only if encoder is 'mlp'")
        if self.crop is not None and self.crop > self.input_size:
            raise ValueError(f"a crop of {self.crop} px does not fit into an input of {self.input_size} px")
        if (self.patch_size is None) == (self.library == "rgb"):
            raise ValueError("patch_size is given if and only if library is 'rgb'")
        return self

    @model_serializer(mode="wrap")
    def _leave_out_what_says_nothing(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Younger fields are written only where they are used: bundles of the first kinds keep their bytes."""
        silent = {name for name in _YOUNGER_FIELDS if getattr(self, name) == type(self).model_fields[name].default}
        return {name: value for name, value in write(self).items() if name not in silent}


class HeadSpec(_Record):
    """How features become class scores: `linear` W z + b, or 100-fold cosine with `text` or `prototypes`."""

    kind: Literal["linear", "text", "prototypes"]
    features: int = Field(gt=0, le=65536)
    logit_scale: float = Field(1.0, gt=0, allow_inf_nan=False)


class BackboneRef(_Record):
    """The frozen ViT a bundle was trained on and is bound to."""

    name: str
    digest: str = Field(pattern=r"^[0-9a-f]{64}$")


class Manifest(_Record):
    """What a bundle says of itself; JSON in the file's header."""

    schema_version: Literal[1] = Field(1, alias="schema")
    dataset: str = Field(pattern=NAME_PATTERN)
    classes: tuple[str, ...] = Field(min_length=2)
    class_sources: tuple[str, ...] | None = None  # union PGN: the data set each class comes from
    template: str | None = None  # class text of CLIP, with one {}
    method: Literal["pgn", "iip"]
    generator: GeneratorSpec
    head: HeadSpec
    backbone: BackboneRef
    temperature: float = Field(1.0, gt=0, allow_inf_nan=False)
    unknown_threshold: float | None = Field(None, ge=0, le=1)
    metrics: dict[str, Any] = Field(default_factory=dict)
    training: dict[str, Any] = Field(default_factory=dict)
    versions: dict[str, str] = Field(default_factory=dict)
    licence: str = "unstated"
    created: str

    @model_validator(mode="after")
    def _names_are_distinct(self) -> Self:
        if len(set(self.classes)) != len(self.classes):
            raise ValueError("class names are not distinct")
        if self.class_sources is not None and len(self.class_sources) != len(self.classes):
            raise ValueError("class_sources and classes differ in length")
        return self


@dataclass(frozen=True)
class Bundle:
    """An opened, verified bundle.

    Attributes:
        manifest: What the file says of itself.
        tensors: float32 arrays: `generator.*`, `head.weight` (C, features), `head.bias` (C), and for generators
            with a library `profile.mixture` (N), the mean mixture over the training images (sums to 1). Views into
            the mapped file, which stays mapped as long as one of them lives; what is written to them is this
            process's own and never reaches the file.
        digest: SHA-256 of the file, 64 hex digits.
    """

    manifest: Manifest
    tensors: Tensors
    digest: str

    @property
    def version(self) -> str:
        """The first 16 hex digits of the digest, as in the file name and in every answer."""
        return self.digest[:16]


def write_bundle(folder: Path, manifest: Manifest, tensors: Tensors) -> Path:
    """Write `<dataset>.<version>.safetensors` into `folder` by rename and return its path.

    The same manifest and tensors give the same bytes, hence the same name.

    Raises:
        BundleInvalid: A tensor is missing, has another shape or type than the manifest says, or is not finite.
        OSError: The folder cannot be written.
    """
    _check_tensors(manifest, tensors)
    # One metadata key only: safetensors writes several in no fixed order, and the digest needs one.
    data = save(
        {name: np.ascontiguousarray(tensors[name]) for name in sorted(tensors)},
        metadata={_MANIFEST_KEY: manifest.model_dump_json(by_alias=True)},
    )
    path = folder / file_name(manifest.dataset, hashlib.sha256(data).hexdigest())
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(path, data)
    return path


def read_bundle(path: Path, *, backbone: str | None = None) -> Bundle:
    """Open and verify the bundle at `path`.

    Args:
        path: A file named as `write_bundle` names it.
        backbone: Digest of the backbone it has to fit; None accepts any.

    Raises:
        BundleMissing: No such file.
        BundleCorrupt: The bytes do not have the digest in the name.
        BundleInvalid: The manifest or a tensor breaks the contract, or the name is another data set's.
        BundleIncompatible: Trained for another backbone.
    """
    match = _FILE_NAME.match(path.name)
    if not match and not path.exists():
        raise BundleMissing(
            f"{path} does not exist", hint="give a bundle's file, or the folder of the run that made it"
        )
    if not match:
        raise BundleInvalid(f"{path.name} is not named <dataset>.<16 hex digits>.safetensors")
    data = _map(path)
    digest = hashlib.sha256(data).hexdigest()
    if not digest.startswith(match["digest"]):
        raise BundleCorrupt(f"{path.name} has SHA-256 {digest[:16]}…, its name says {match['digest']}")
    header, body = _split(data, path.name)
    manifest = _read_manifest(header, path.name)
    if manifest.dataset != match["dataset"]:
        raise BundleInvalid(f"{path.name} holds the data set {manifest.dataset!r}")
    if backbone is not None and manifest.backbone.digest != backbone:
        raise BundleIncompatible(
            f"{path.name} was trained on backbone {manifest.backbone.name} ({manifest.backbone.digest[:16]}…), "
            f"not on {backbone[:16]}…"
        )
    tensors = _view_tensors(header, body, path.name)
    _check_tensors(manifest, tensors)
    return Bundle(manifest, tensors, digest)


def file_name(dataset: str, digest: str) -> str:
    """The name of a bundle's file."""
    return f"{dataset}.{digest[:16]}.safetensors"


def write_atomically(path: Path, data: bytes) -> None:
    """Put `data` at `path` so that a reader sees all of it or nothing, also after a power cut."""
    scratch = path.with_name(f".{path.name}.{uuid4().hex}")  # processes of several pods may have one number
    try:
        with scratch.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)


def _map(path: Path) -> memoryview:
    # Private and copy-on-write: writable for torch, while clean pages are the page cache's, one copy for all processes.
    # The size is taken once. A file that shrank later would kill the reader (SIGBUS), which is why bundles are only
    # ever replaced by rename: the mapping keeps the old file.
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            return memoryview(mmap.mmap(file.fileno(), size, access=mmap.ACCESS_COPY) if size else b"")
    except (OSError, ValueError) as error:  # ValueError: it shrank in between
        reason = (isinstance(error, OSError) and error.strerror) or error
        raise BundleMissing(f"{path} cannot be read: {reason}") from error


def _split(data: memoryview, name: str) -> tuple[dict[str, Any], memoryview]:
    """The header as JSON and the tensors' bytes: eight bytes of length, then JSON, then all tensors."""
    try:
        (length,) = struct.unpack_from("<Q", data)
        header = json.loads(bytes(data[8 : 8 + length]))
    except (struct.error, ValueError, RecursionError) as error:
        raise BundleInvalid(f"{name} holds no manifest") from error
    if not isinstance(header, dict):
        raise BundleInvalid(f"{name} holds no manifest")
    return header, data[8 + length :]


def _read_manifest(header: dict[str, Any], name: str) -> Manifest:
    try:
        return Manifest.model_validate_json(header["__metadata__"][_MANIFEST_KEY])
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, f['loc'])) or 'manifest'}: {f['msg']}" for f in error.errors())
        raise BundleInvalid(f"{name}: {faults}") from error
    except (KeyError, TypeError) as error:
        raise BundleInvalid(f"{name} holds no manifest") from error


def _view_tensors(header: dict[str, Any], body: memoryview, name: str) -> dict[str, NDArray[np.float32]]:
    # Not by safetensors, whose every way into NumPy copies. As there, the tensors have to fill the file without a gap.
    tensors: dict[str, NDArray[Any]] = {}
    end = 0
    try:
        entries = {key: entry for key, entry in header.items() if key != "__metadata__"}
        for key, entry in sorted(entries.items(), key=lambda item: item[1]["data_offsets"]):
            (start, stop), dtype, shape = entry["data_offsets"], _TYPES[entry["dtype"]], entry["shape"]
            count = math.prod(shape)
            if start != end or stop - start != dtype.itemsize * count:
                raise ValueError(f"tensor {key} of shape {shape} cannot be the bytes {start} to {stop}")
            array = np.frombuffer(body, dtype, count, start).reshape(shape)
            tensors[key] = array if array.flags.aligned else array.copy()
            end = stop
        if end != len(body):
            raise ValueError(f"it has {len(body)} bytes of tensors, its header describes {end}")
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        raise BundleInvalid(f"{name} is not a safetensors file: {error}") from error
    return tensors


def _check_tensors(manifest: Manifest, tensors: Tensors) -> None:
    classes, generator = len(manifest.classes), manifest.generator
    wanted: dict[str, tuple[int, ...]] = {"head.weight": (classes, manifest.head.features)}
    if manifest.head.kind == "linear":
        wanted["head.bias"] = (classes,)
    if generator.encoder == "none":
        wanted["generator.prompts"] = (generator.num_prompts, generator.embed_dim)
    elif generator.library == "latent":
        wanted["generator.library.tokens"] = (generator.library_size, generator.embed_dim)
    elif generator.patch_size is not None:
        wanted["generator.library.pixel_logits"] = (generator.library_size, 3, *2 * (generator.patch_size,))
    if generator.library_size:
        wanted["profile.mixture"] = (generator.library_size,)
    for name, shape in wanted.items():
        if name not in tensors:
            raise BundleInvalid(f"tensor {name} is missing")
        if tensors[name].shape != shape:
            raise BundleInvalid(f"tensor {name} has shape {tensors[name].shape}, the manifest says {shape}")
    for name, tensor in tensors.items():
        if name not in wanted and not name.startswith("generator."):
            raise BundleInvalid(f"tensor {name} has no place in a bundle")
        if tensor.dtype != np.float32:
            raise BundleInvalid(f"tensor {name} is {tensor.dtype}, not float32")
        if not np.isfinite(tensor).all():
            raise BundleInvalid(f"tensor {name} holds values that are not finite")
