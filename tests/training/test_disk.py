"""A failed write is one clear line."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from pgn.errors import DiskFull, SetupError
from training.disk import clear_disk_errors


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_no_room_is_told_from_other_failures(number: int) -> None:
    """A full disk and a used-up quota: room can be made, and a grid stops instead of failing cell by cell."""
    with pytest.raises(DiskFull, match=r"^no room left to write into runs/x"), clear_disk_errors(Path("runs/x")):
        raise OSError(number, "says the system")


def test_any_other_failed_write_names_the_folder_and_the_reason() -> None:
    """The system's own words, without a traceback."""
    with (
        pytest.raises(SetupError, match=r"^runs/x cannot be written: Read-only file system") as caught,
        clear_disk_errors(Path("runs/x")),
    ):
        raise OSError(errno.EROFS, "Read-only file system")
    assert not isinstance(caught.value, DiskFull)


def test_what_is_no_failed_write_passes() -> None:
    """A bug keeps its traceback."""
    with pytest.raises(ZeroDivisionError), clear_disk_errors(Path("runs/x")):
        raise ZeroDivisionError
