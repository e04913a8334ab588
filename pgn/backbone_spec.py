"""The contract of a backbone folder: `backbone.json` beside `model.safetensors`.

The digest of a backbone is the SHA-256 of its `backbone.json`, which in turn holds the SHA-256 of the weights; a
bundle is bound to that digest. No torch here: gateway and client need only the preprocessing. See docs/backbone.md.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pgn.errors import BackboneInvalid
from pgn.images import Interpolation

SPEC_FILE = "backbone.json"
WEIGHTS_FILE = "model.safetensors"
_WHERE_FROM = "`pgn backbone list` names those at hand, `pgn backbone fetch MODEL --out FOLDER` makes one"


class Preprocess(BaseModel):
    """How an image becomes the backbone's input: scaled, cropped, then (x / 255 - mean) / std by channel."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    size: int = Field(gt=0)
    interpolation: Interpolation
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


class BackboneSpec(BaseModel):
    """What a frozen ViT is: library and architecture that rebuild it, its activation, its preprocessing.

    `architecture` holds the keyword arguments of open_clip's `VisionTransformer` (library "open_clip") or of timm's
    `create_model` (library "timm", with the key `model`). The activation has no default: CLIP's weights answer
    wrongly, without any error, under the wrong one. `precision` is that of the blocks' linear layers.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    schema_version: Literal[1] = Field(1, alias="schema")
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,79}$")
    library: Literal["open_clip", "timm"]
    architecture: dict[str, Any]
    activation: Literal["gelu", "quick_gelu"]
    preprocess: Preprocess
    precision: Literal["float", "int8"] = "float"
    weights_sha256: str = Field(pattern=r"^[0-9a-f]{64}$")

    def to_json(self) -> str:
        """The text of `backbone.json`, byte for byte what the backbone's digest is taken over.

        `precision` is younger than the other fields and written only if it says something, so that a float backbone
        saved again has the digest it always had.
        """
        silent = {"precision"} if self.precision == "float" else None
        return self.model_dump_json(by_alias=True, indent=2, exclude=silent) + "\n"


def read_spec(folder: Path) -> tuple[BackboneSpec, str]:
    """The spec in `folder` and the backbone's digest (64 hex digits).

    Raises:
        BackboneInvalid: No such folder or file, or a field is missing or wrong; the message names it.
    """
    path = folder / SPEC_FILE
    try:
        text = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError) as error:
        missing = f"{folder} holds no {SPEC_FILE}" if folder.is_dir() else f"there is no backbone folder {folder}"
        raise BackboneInvalid(missing, hint=_WHERE_FROM) from error
    except OSError as error:
        raise BackboneInvalid(f"{path} cannot be read: {error.strerror}") from error
    try:
        spec = BackboneSpec.model_validate_json(text)
    except ValidationError as error:
        faults = {".".join(str(part) for part in fault["loc"]): fault["msg"] for fault in error.errors()}
        if "activation" in faults:
            raise BackboneInvalid(
                f"{path} does not declare the weights' activation",
                hint='add "activation": "quick_gelu" for OpenAI\'s CLIP weights, "gelu" for most others',
            ) from error
        raise BackboneInvalid(f"{path}: " + "; ".join(f"{name}: {text}" for name, text in faults.items())) from error
    return spec, hashlib.sha256(text).hexdigest()


def write_spec(folder: Path, spec: BackboneSpec) -> str:
    """Write `backbone.json` into `folder`; returns the backbone's digest."""
    text = spec.to_json().encode()
    (folder / SPEC_FILE).write_bytes(text)
    return hashlib.sha256(text).hexdigest()


def verify_weights(folder: Path, spec: BackboneSpec) -> Path:
    """The path of the weights, once their SHA-256 is that of the spec; else BackboneInvalid."""
    path = folder / WEIGHTS_FILE
    try:
        with path.open("rb") as file:
            digest = file_sha256(file)
    except OSError as error:
        raise BackboneInvalid(f"{path} cannot be read: {error.strerror}") from error
    if digest != spec.weights_sha256:
        raise BackboneInvalid(f"{path} has SHA-256 {digest[:16]}…, its spec says {spec.weights_sha256[:16]}…")
    return path


def file_sha256(file: Any) -> str:
    """SHA-256 (64 hex digits) of what is left to read in a binary file."""
    digest = hashlib.sha256()
    while block := file.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()
