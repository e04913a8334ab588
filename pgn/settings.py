"""One frozen Settings, from the environment (`PGN_*`) and flags; every fault is reported at once.

TorchServe's own settings are not here: `config.properties` is their only source, and `read_torchserve_config` reads
from it the addresses that the gateway calls.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal
from urllib.parse import urlsplit

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from pgn.errors import SetupError
from pgn.images import DEFAULT_MAX_PIXELS


class Settings(BaseSettings):
    """What an operator may set. Environment variables carry the prefix `PGN_`, flags win over them."""

    model_config = SettingsConfigDict(env_prefix="PGN_", env_ignore_empty=True, frozen=True, extra="forbid")

    store: Path = Field(Path("model_store"), description="folder of the model store")
    remote: str | None = Field(
        None,
        pattern=r"^s3://[^/]+(/.*)?$",
        description="s3://bucket/prefix of the store that is the truth; the folder follows it",
    )
    public_key: Path | None = Field(None, description="PEM key; bundles without its signature are refused")
    sync_s: float = Field(2.0, gt=0, description="seconds between two looks at the bucket's index")
    part_bytes: int = Field(
        16 * 2**20, ge=5 * 2**20, description="larger files travel to the bucket in parts of this size"
    )
    poll_s: float = Field(0.2, gt=0, description="seconds between two looks at the index")
    torchserve_config: Path = Field(Path("config.properties"), description="TorchServe's settings file")
    host: str = Field("127.0.0.1", description="address the gateway listens on")
    port: int = Field(8000, ge=0, le=65535, description="port the gateway listens on")
    max_body_bytes: int = Field(10 * 2**20, gt=0, description="largest request body")
    max_pixels: int = Field(DEFAULT_MAX_PIXELS, gt=0, description="largest width x height of an image")
    max_in_flight: int = Field(64, gt=0, description="requests worked on at once; more are answered 503")
    max_images: int = Field(32, ge=1, le=1024, description="images in one request")
    max_bundle_bytes: int = Field(64 * 2**20, gt=0, description="largest bundle that can be uploaded")
    workers: int = Field(1, ge=1, le=64, description="processes of the gateway; the limits are divided among them")
    drain_delay_s: float = Field(0.0, ge=0, description="seconds of accepting on after SIGTERM, not ready any more")
    keys: Path | None = Field(None, description="file of API keys; without one only loopback is served")
    anonymous: bool = Field(False, description="serve without keys beyond loopback: somebody else checks who asks")
    audit_log: Path | None = Field(None, description="file that administrative acts are appended to; else the log")
    cors_origins: tuple[str, ...] = Field((), description="origins whose pages may ask, as a JSON list")
    deadline_s: float = Field(10.0, gt=0, description="seconds in which a request is answered or refused")
    restart_after_s: float = Field(
        60.0, gt=0, description="seconds that a fault lasts before TorchServe is restarted for it"
    )
    max_server_bytes: int = Field(4 * 2**30, gt=0, description="memory of TorchServe's JVM above which it is restarted")
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="where the stages compute; `cuda` fails without a GPU, `auto` then takes the CPU"
    )
    decode_threads: int = Field(os.cpu_count() or 1, gt=0, description="threads that decode images")
    log_level: Literal["debug", "info", "warning", "error"] = Field("warning", description="least level that is logged")
    log_format: Literal["text", "json"] = Field("text", description="lines for people, or JSON for a collector")
    metrics_dir: Path | None = Field(None, description="folder in which all processes share their metrics")
    top_k: int = Field(5, ge=1, le=1000, description="classes in an answer, if the request does not say")


def load_settings(**flags: Any) -> Settings:
    """Settings from the environment and the flags that are not None; raises SetupError listing every fault."""
    try:
        return Settings(**{name: value for name, value in flags.items() if value is not None})
    except ValidationError as error:
        faults = [f"PGN_{'_'.join(map(str, f['loc'])).upper()}={f['input']!r}: {f['msg']}" for f in error.errors()]
        raise SetupError("; ".join(faults)) from error


@dataclass(frozen=True)
class TorchServeConfig:
    """What the rest of the product has to know of `config.properties`."""

    path: Path
    inference: str  # http://host:port
    management: str
    metrics: str
    ports: tuple[int, ...]  # every port that TorchServe binds
    vmargs: tuple[str, ...]
    job_queue_size: int


_ADDRESSES: Final = ("inference_address", "management_address", "metrics_address")
_GRPC_PORTS: Final = ("grpc_inference_port", "grpc_management_port")


def read_torchserve_config(path: Path) -> TorchServeConfig:
    """Read `config.properties`; raises SetupError if it is missing or names no address or port."""
    try:
        lines = path.read_text("latin-1").splitlines()  # what Java reads, too
    except OSError as error:
        raise SetupError(f"TorchServe's settings {path} cannot be read: {error.strerror}") from error
    pairs = (line.split("=", 1) for line in lines if "=" in line and not line.lstrip().startswith("#"))
    values = {name.strip(): value.strip() for name, value in pairs}
    try:
        inference, management, metrics = (values[name].rstrip("/") for name in _ADDRESSES)
        ports = [urlsplit(address).port or 80 for address in (inference, management, metrics)]
        return TorchServeConfig(
            path=path.resolve(),
            inference=inference,
            management=management,
            metrics=metrics,
            ports=(*ports, *(int(values[name]) for name in _GRPC_PORTS)),
            vmargs=tuple(values.get("vmargs", "").split()),
            job_queue_size=int(values["job_queue_size"]),
        )
    except KeyError as error:
        raise SetupError(f"{path} has no line {error.args[0]}=…; every address and port has to be named") from error
    except ValueError as error:
        raise SetupError(f"{path}: {error}") from error
