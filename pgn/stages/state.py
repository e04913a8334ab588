"""A stage's answer to `ask` "state": what it holds, and how the model server that runs it fares."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal

import torch

from pgn.message import HeldVersion, Request, StageState
from pgn.stages.bank import Bank, Key, Snapshot


def describe(bank: Bank[Any], request: Request, *, stage: Literal["pgn", "vit"], device: torch.device) -> StageState:
    """The state of the versions that `request` names: a digest, all versions of a data set, or without targets all.

    What the index does not name and the bank does not hold is left out.
    """
    snapshot = bank.snapshot
    threads, rss_bytes = _server()
    return StageState(
        request_id=request.id,
        stage=stage,
        revision=snapshot.index.revision,
        device=str(device),
        versions=tuple(_describe_version(bank, snapshot, key, device) for key in _asked(snapshot, request)),
        server_threads=threads,
        server_rss_bytes=rss_bytes,
    )


def _server() -> tuple[int, int]:
    """Threads and resident bytes of the process that started this one: TorchServe's JVM starts its workers itself."""
    lines = Path(f"/proc/{os.getppid()}/status").read_text().splitlines()
    fields = dict(line.split(":", 1) for line in lines if ":" in line)
    return int(fields["Threads"]), 1024 * int(fields["VmRSS"].split()[0])


def _asked(snapshot: Snapshot[Any], request: Request) -> list[Key]:
    names = [target.dataset for target in request.targets if target.digest is None] or (
        [] if request.targets else list(snapshot.index.datasets)
    )
    served = [
        (name, version.digest)
        for name in names
        if name in snapshot.index.datasets
        for version in snapshot.index.datasets[name].versions
    ]
    pinned = [(target.dataset, target.digest) for target in request.targets if target.digest is not None]
    known = [key for key in (*served, *pinned) if key in snapshot.held or key in snapshot.refused]
    return list(dict.fromkeys(known))


def _describe_version(bank: Bank[Any], snapshot: Snapshot[Any], key: Key, device: torch.device) -> HeldVersion:
    dataset, digest = key
    tier: Literal["device", "host"] = "host" if device.type == "cpu" else "device"
    held = snapshot.held.get(key)
    if held is None:
        reason = snapshot.refused[key].error.message
        return HeldVersion(
            dataset=dataset, digest=digest, state="refused", tier=tier, bytes=0, age_s=0.0, last_error=reason
        )
    return HeldVersion(
        dataset=dataset, digest=digest, state="ready", tier=tier, bytes=held.bytes, age_s=bank.age_s(held)
    )
