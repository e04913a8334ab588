"""What readers of public sets share."""

from __future__ import annotations

from pathlib import Path

import pytest

from training.data.named.parts import or_download


class _WithoutNetwork:
    """Stands for a data set of torchvision, which makes its folders before it downloads into them."""

    def __init__(self, root: Path, *, download: bool) -> None:
        if not download:
            raise RuntimeError("Dataset not found. You can use download=True to download it")
        (root / "images").mkdir(parents=True, exist_ok=True)
        raise OSError("no network")


def test_a_failed_download_leaves_no_empty_folder(tmp_path: Path) -> None:
    """It would look like a set that is at hand."""
    with pytest.raises(FileNotFoundError, match="flowers failed: no network"):
        or_download(_WithoutNetwork, tmp_path / "flowers")
    assert not (tmp_path / "flowers").exists()


def test_a_failed_download_leaves_what_was_there(tmp_path: Path) -> None:
    """A split file that was fetched by hand, for one."""
    (tmp_path / "flowers").mkdir()
    (tmp_path / "flowers" / "split.json").touch()
    with pytest.raises(FileNotFoundError, match="failed"):
        or_download(_WithoutNetwork, tmp_path / "flowers")
    assert [path.name for path in (tmp_path / "flowers").iterdir()] == ["split.json"]
