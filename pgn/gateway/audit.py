"""The audit log: who changed what is served, or tried to. Only ever appended to. See docs/keys.md."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Final, Literal

from pgn.errors import SetupError

Act = Literal["publish", "remove", "rollback", "reload keys", "administer"]
"""What was asked for; "administer" where the request was refused before that was known."""
Outcome = Literal["done", "unchanged", "refused", "failed"]
"""Done, nothing to do, not allowed (no key, or not that of an administrator), or could not be done."""

_MODE: Final = 0o600

_log = logging.getLogger("pgn.audit")
_log.setLevel(logging.INFO)  # whatever PGN_LOG_LEVEL is: without a file this log is all that remembers


class Audit:
    """Appends one JSON object a line to a file, or to the log if there is none.

    Each line is one write in append mode, so that all workers may share the file, and is on the disk when `record`
    returns. The file is opened for each line: it can be moved away while the service runs.

    Args:
        path: The file; None writes to the log.
        on_fault: Called for each act that could not be written to the file.

    Raises:
        SetupError: The file cannot be written.
    """

    def __init__(self, path: Path | None, *, on_fault: Callable[[], None] = lambda: None) -> None:
        self._path = path
        self._on_fault = on_fault
        if path is None:
            return
        try:
            os.close(_open(path))
        except OSError as error:
            raise SetupError(
                f"the audit log {path} cannot be written: {error.strerror}", hint="set PGN_AUDIT_LOG"
            ) from error

    def record(
        self,
        act: Act,
        outcome: Outcome,
        *,
        who: str,
        dataset: str | None = None,
        digest: str | None = None,
        revision_before: int | None = None,
        revision_after: int | None = None,
        request_id: str | None = None,
        address: str | None = None,
        reason: str | None = None,
        **more: Any,
    ) -> None:
        """Write down an administrative act. Waits for the disk: call it from a thread, not from the event loop.

        A disk that fails is told to the log with all the fields; it never undoes or hides an act that is done.

        Args:
            act: What was asked for.
            outcome: What came of it.
            who: Name of the key, or "anonymous".
            dataset: Data set name.
            digest: The bundle's SHA-256.
            revision_before: Of the index.
            revision_after: Of the index; the same if nothing changed.
            request_id: Of the request.
            address: The client's.
            reason: Why it was refused or failed.
            more: Further fields, such as the share.
        """
        fields = {
            "who": who,
            "act": act,
            "outcome": outcome,
            "dataset": dataset,
            "digest": digest,
            "revision_before": revision_before,
            "revision_after": revision_after,
            "request_id": request_id,
            "address": address,
            "reason": reason,
            **more,
        }
        fields = {name: value for name, value in fields.items() if value is not None}
        if self._path is None:
            _log.info("audit", extra=fields)
            return
        moment = datetime.now(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        try:
            _append(self._path, json.dumps({"ts": moment, **fields}, default=str) + "\n")
        except OSError as error:
            self._on_fault()
            _log.error("audit_not_written", extra={**fields, "fault": str(error)})


def _append(path: Path, line: str) -> None:
    file = _open(path)
    try:
        os.write(file, line.encode())
        os.fsync(file)
    finally:
        os.close(file)


def _open(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, _MODE)
