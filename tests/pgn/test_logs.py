"""A log line is one line, with its fields, in either format."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgn.logs import JsonFormatter, TextFormatter, configure_logs, trace_id
from pgn.settings import Settings


@pytest.fixture
def log() -> Iterator[logging.Logger]:
    """A logger as a stage configures it; whatever a test does to it is undone."""
    log = logging.getLogger("logs-under-test")
    yield log
    log.handlers.clear()
    log.setLevel(logging.NOTSET)
    log.propagate = True


def record(message: str, **fields: object) -> logging.LogRecord:
    made = logging.getLogger("pgn.somewhere").makeRecord("pgn.somewhere", 30, "", 0, message, (), None, extra=fields)
    made.created = 1_700_000_000.1239
    return made


def test_a_line_for_people_has_its_fields_behind_the_event() -> None:
    """What happened comes first, then with what."""
    line = TextFormatter().format(record("reloaded", keys=12, path="/etc/keys.toml", fault="no such file"))
    assert line == (
        '2023-11-14T22:13:20.123Z WARNING pgn.somewhere reloaded keys=12 path=/etc/keys.toml fault="no such file"'
    )


def test_a_line_for_a_collector_is_json_with_every_field_by_name() -> None:
    """A collector asks by field, so the names are a contract; what JSON does not know becomes its text."""
    line = json.loads(JsonFormatter("gateway").format(record("reloaded", keys=12, error=ValueError("bad"), none=None)))
    assert line.pop("pid") > 0
    assert line == {
        "ts": "2023-11-14T22:13:20.123Z",
        "level": "warning",
        "role": "gateway",
        "logger": "pgn.somewhere",
        "event": "reloaded",
        "keys": 12,
        "error": "bad",
    }


@given(st.text(), st.text())
def test_nobody_can_forge_a_second_line(message: str, value: str) -> None:
    """Parts of a line come from clients; a line break in them would let them write lines of their own."""
    for formatter in (TextFormatter(), JsonFormatter("gateway")):
        line = formatter.format(record(message.replace("%", ""), dataset=value))
        assert len(line.splitlines()) == 1
    assert json.loads(JsonFormatter("gateway").format(record("event", dataset=value)))["dataset"] == value


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_a_fault_brings_its_traceback(log: logging.Logger, capfd: pytest.CaptureFixture[str], log_format: str) -> None:
    """Where it happened is what one wants to know; in JSON it stays within its line."""
    configure_logs(Settings(log_format=log_format), "stage-pgn", logger=log.name)
    try:
        raise ValueError("told")
    except ValueError:
        log.exception("fault")
    written = capfd.readouterr().err
    assert "Traceback" in written
    assert "ValueError: told" in written
    assert (len(written.splitlines()) == 1) == (log_format == "json")


def test_the_level_is_the_settings_and_a_second_call_replaces_the_first(
    log: logging.Logger, capfd: pytest.CaptureFixture[str]
) -> None:
    """A process that configures twice writes each line once."""
    configure_logs(Settings(log_level="debug"), "gateway", logger=log.name)
    configure_logs(Settings(log_level="warning", log_format="json"), "gateway", logger=log.name)
    log.info("passed over")
    log.warning("told")
    (line,) = capfd.readouterr().err.splitlines()
    assert json.loads(line)["event"] == "told"


def test_the_trace_is_part_of_the_traceparent() -> None:
    """Lines of gateway and stages about one request share it."""
    assert trace_id(f"00-{'a' * 32}-{'b' * 16}-01") == "a" * 32
    assert trace_id(None) is None
