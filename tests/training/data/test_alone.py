"""Downloads that several processes ask for at once."""

from __future__ import annotations

import os
from pathlib import Path
from threading import Thread

import pytest
from filelock import FileLock

from training.data.alone import alone
from training.data.named.parts import or_download


class _Set:
    """Stands for a data set of torchvision whose download takes so long that somebody else asks for it meanwhile."""

    downloads = 0
    other: Thread

    def __init__(self, root: Path, *, download: bool) -> None:
        if download:
            type(self).downloads += 1
            if self.downloads == 1:
                _Set.other = Thread(target=or_download, args=(_Set, root), daemon=True)
                _Set.other.start()
                _Set.other.join(0.3)  # it would be through by now if it did not wait
            root.mkdir(exist_ok=True)
            (root / "images").touch()
        elif not (root / "images").exists():
            raise RuntimeError("Dataset not found. You can use download=True to download it")


def test_what_two_ask_for_is_downloaded_once(tmp_path: Path) -> None:
    """Else one would unpack over what the other is reading."""
    or_download(_Set, tmp_path / "data" / "flowers")
    _Set.other.join()
    assert _Set.downloads == 1


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_is_read_all_the_same(tmp_path: Path) -> None:
    """Images on a volume that is mounted read-only."""
    (tmp_path / "data" / "flowers").mkdir(parents=True)
    (tmp_path / "data" / "flowers" / "images").touch()
    (tmp_path / "data").chmod(0o555)
    assert isinstance(or_download(_Set, tmp_path / "data" / "flowers"), _Set)


def test_a_file_in_the_place_of_the_data_folder_is_passed_by(tmp_path: Path) -> None:
    """The reader says what is wrong with it."""
    (tmp_path / "data").touch()
    with alone(tmp_path / "data" / "flowers"):
        pass


@pytest.mark.parametrize("error", [NotImplementedError("no flock here"), PermissionError("read-only")])
def test_where_no_lock_can_be_had_nothing_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """Some file systems know no locks, which filelock tells by NotImplementedError; sets there are read anyway."""

    def refused(_: FileLock) -> None:
        raise error

    monkeypatch.setattr(FileLock, "acquire", refused)
    inside = False
    with alone(tmp_path / "flowers"):
        inside = True
    assert inside
