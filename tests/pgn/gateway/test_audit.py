"""The audit log keeps every act, whole."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from pathlib import Path

import pytest

from pgn.errors import SetupError
from pgn.gateway.audit import Audit

WRITE_MANY = """
import sys
from pathlib import Path
from pgn.gateway.audit import Audit
audit = Audit(Path(sys.argv[1]))
for number in range(100):
    audit.record("publish", "done", who=sys.argv[2], dataset="x" * 60, revision_after=number)
"""


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_an_act_is_one_json_line_behind_those_before(tmp_path: Path) -> None:
    """Who did what to which data set, from which revision to which; what is not known is left out."""
    path = tmp_path / "audit.jsonl"
    audit = Audit(path)
    audit.record("publish", "done", who="boss", dataset="digits", digest="ab", revision_before=6, revision_after=7)
    audit.record("remove", "refused", who="anonymous", address="10.0.0.1", reason="403")
    first, second = lines(path)
    assert str(first.pop("ts")).endswith("Z")
    assert first == {
        "who": "boss",
        "act": "publish",
        "outcome": "done",
        "dataset": "digits",
        "digest": "ab",
        "revision_before": 6,
        "revision_after": 7,
    }
    assert (second["act"], second["outcome"], second["address"]) == ("remove", "refused", "10.0.0.1")


def test_it_is_for_its_owner_alone(tmp_path: Path) -> None:
    """Names of keys and addresses are nobody else's business."""
    Audit(tmp_path / "audit.jsonl")
    assert (tmp_path / "audit.jsonl").stat().st_mode & 0o777 == 0o600


def test_processes_share_a_file_without_mixing_lines(tmp_path: Path) -> None:
    """All workers of a gateway write to the same file."""
    path = tmp_path / "audit.jsonl"
    writers = [subprocess.Popen([sys.executable, "-c", WRITE_MANY, path, who]) for who in ("one", "two", "three")]
    assert [writer.wait(60) for writer in writers] == [0, 0, 0]
    written = lines(path)
    for who in ("one", "two", "three"):
        assert [line["revision_after"] for line in written if line["who"] == who] == list(range(100))


def test_it_can_be_moved_away_while_the_service_runs(tmp_path: Path) -> None:
    """So that it can be rotated."""
    path = tmp_path / "audit.jsonl"
    audit = Audit(path)
    audit.record("remove", "done", who="boss")
    path.rename(tmp_path / "audit.1")
    audit.record("remove", "done", who="boss")
    assert len(lines(path)) == len(lines(tmp_path / "audit.1")) == 1


def test_without_a_file_it_goes_to_the_log_whatever_its_level(caplog: pytest.LogCaptureFixture) -> None:
    """Nothing else remembers it then."""
    logging.getLogger("pgn").setLevel(logging.ERROR)
    try:
        Audit(None).record("remove", "done", who="boss", dataset="digits")
    finally:
        logging.getLogger("pgn").setLevel(logging.NOTSET)
    (record,) = caplog.records
    assert (record.message, vars(record)["who"], vars(record)["dataset"]) == ("audit", "boss", "digits")


def test_a_disk_that_fails_later_is_told_with_the_act(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The act is done: the log is the second best place to find it."""
    folder = tmp_path / "gone"
    folder.mkdir()
    audit = Audit(folder / "audit.jsonl")
    (folder / "audit.jsonl").unlink()
    folder.rmdir()
    audit.record("publish", "done", who="boss", dataset="digits")
    (record,) = caplog.records
    assert (record.message, vars(record)["dataset"]) == ("audit_not_written", "digits")


def test_a_file_that_cannot_be_written_is_met_at_start(tmp_path: Path) -> None:
    """Not with the first act."""
    with pytest.raises(SetupError, match="PGN_AUDIT_LOG"):
        Audit(tmp_path / "missing" / "audit.jsonl")
