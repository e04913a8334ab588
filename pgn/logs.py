"""Log lines: an event with fields, as text for people or as JSON for a collector.

    log.info("reloaded", extra={"keys": 12})

    2026-01-31T10:00:00.123Z INFO pgn.gateway.keys reloaded keys=12
    {"ts": "2026-01-31T10:00:00.123Z", "level": "info", "role": "gateway", ..., "event": "reloaded", "keys": 12}

Never logged: images, keys, query strings. See docs/logs.md.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any, Final

from pgn.settings import Settings

# What every record has; whatever else it has came by `extra`. `color_message` is uvicorn's second copy of its text.
_OWN: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "color_message"}
_BARE: Final = re.compile(r"[\w./:@%+*~-]+", re.ASCII)
_UNPRINTABLE: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


def configure_logs(settings: Settings, role: str, *, logger: str = "") -> None:
    """Write this process's log to standard error, as the settings say. A second call replaces the first.

    Args:
        settings: `log_level` and `log_format`.
        role: Which part of the service this process is; a field of every JSON line.
        logger: Only the lines of this logger and those below it; by default all. A stage names "pgn": the rest of its
            process is TorchServe's.
    """
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter(role) if settings.log_format == "json" else TextFormatter())
    log = logging.getLogger(logger)
    for old in [old for old in log.handlers if isinstance(old.formatter, (JsonFormatter, TextFormatter))]:
        log.removeHandler(old)
    log.addHandler(handler)
    log.setLevel(settings.log_level.upper())
    log.propagate = not logger  # or a handler further up writes the line once more


def trace_id(traceparent: str | None) -> str | None:
    """The trace of a valid W3C traceparent: the field `trace_id` of every line about its request."""
    return traceparent.split("-")[1] if traceparent else None


class JsonFormatter(logging.Formatter):
    """One JSON object a line, ASCII only."""

    def __init__(self, role: str) -> None:
        super().__init__()
        self._role = role

    def format(self, record: logging.LogRecord) -> str:
        """The record as a line."""
        line: dict[str, Any] = {
            "ts": _time(record),
            "level": record.levelname.lower(),
            "role": self._role,
            "pid": record.process,
            "logger": record.name,
            "event": record.getMessage(),
            **_fields(record),
        }
        if trace := _traceback(self, record):
            line["exception"] = trace
        return json.dumps(line, default=str)


class TextFormatter(logging.Formatter):
    """One line a record, fields as name=value; a traceback follows on lines of its own."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as a line."""
        # What a client sent may be in the message: it must not be able to forge a second line.
        message = _UNPRINTABLE.sub(lambda found: repr(found[0])[1:-1], record.getMessage())
        pairs = "".join(f" {name}={_text(value)}" for name, value in _fields(record).items())
        line = f"{_time(record)} {record.levelname} {record.name} {message}{pairs}"
        trace = _traceback(self, record)
        return f"{line}\n{trace}" if trace else line


def _fields(record: logging.LogRecord) -> Mapping[str, Any]:
    return {name: value for name, value in vars(record).items() if name not in _OWN and value is not None}


def _text(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    return text if _BARE.fullmatch(text) else json.dumps(text)


def _time(record: logging.LogRecord) -> str:
    moment = datetime.fromtimestamp(record.created, timezone.utc)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _traceback(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    parts = [formatter.formatException(record.exc_info)] if record.exc_info and record.exc_info[0] else []
    if record.stack_info:
        parts.append(formatter.formatStack(record.stack_info))
    return "\n".join(parts)
