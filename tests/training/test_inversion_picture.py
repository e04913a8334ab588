"""The picture shows the files as they are, with what was said to them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pgn.method.backbone import load_backbone
from tests.toys import make_bundle, make_images
from training import inversion_picture


@pytest.fixture
def pictures(tmp_path: Path) -> list[Path]:
    """Two images as files."""
    paths = [tmp_path / f"{number}.png" for number in range(2)]
    for path, data in zip(paths, make_images(2), strict=True):
        path.write_bytes(data)
    return paths


def test_the_command_draws_a_column_for_each_image(
    pictures: list[Path], backbone_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wider with each image, on white, and not empty."""
    bundle = make_bundle(tmp_path, "digits", load_backbone(backbone_folder).digest, library="rgb")
    widths = []
    for count in (1, 2):
        out = tmp_path / f"{count}-columns.png"
        words = [bundle, *pictures[:count], "--backbone", backbone_folder, "--out", out]
        monkeypatch.setattr("sys.argv", ["inversion_picture", *map(str, words)])
        inversion_picture.main()
        with Image.open(out) as drawn:
            pixels = np.asarray(drawn.convert("RGB"))
        widths.append(pixels.shape[1])
        assert (pixels[0, 0] == 255).all()
        assert pixels.std() > 20
    assert widths[1] - widths[0] == pytest.approx(260, abs=2)


def test_a_missing_image_is_one_line(backbone_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As everywhere."""
    bundle = make_bundle(tmp_path, "digits", load_backbone(backbone_folder).digest)
    words = [bundle, "no.png", "--backbone", backbone_folder, "--out", tmp_path / "out.png"]
    monkeypatch.setattr("sys.argv", ["inversion_picture", *map(str, words)])
    with pytest.raises(SystemExit, match=r"pgn: no\.png cannot be read"):
        inversion_picture.main()
