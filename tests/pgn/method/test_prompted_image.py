"""A prompted image file says to the frozen ViT what the PGN would have said, and its report is honest."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pgn.bundle import read_bundle
from pgn.errors import NotAnImage, SetupError, UsageError
from pgn.images import read_prompted, read_square
from pgn.method.backbone import load_backbone
from pgn.method.predictor import Predictor
from pgn.method.prompted_image import write_prompted
from tests.toys import make_backbone, make_bundle, make_images


@pytest.fixture(params=["latent", "rgb"])
def predictor(request: pytest.FixtureRequest, tmp_path: Path) -> Predictor:
    """A toy bundle of each kind on the toy backbone: four prompts, one row of four patches."""
    digest = make_backbone(tmp_path / "toy")
    bundle = read_bundle(make_bundle(tmp_path, "digits", digest, library=request.param))
    return Predictor(load_backbone(tmp_path / "toy"), bundle)


@pytest.fixture
def rgb(tmp_path: Path) -> Predictor:
    """A toy bundle whose prompts are pixels, with a head that is not too sure to notice them."""
    digest = make_backbone(tmp_path / "toy")
    bundle = read_bundle(make_bundle(tmp_path, "digits", digest, library="rgb"))
    predictor = Predictor(load_backbone(tmp_path / "toy"), bundle)
    predictor.head.weight.mul_(0.2)
    return predictor


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """A picture of another size than the backbone's."""
    path = tmp_path / "picture.png"
    path.write_bytes(make_images(1, size=50)[0])
    return path


def test_the_png_is_the_image_with_a_row_of_patches_below(predictor, image, tmp_path):
    """32 px wide as the backbone reads it, 8 px higher, and as the service accepts it."""
    write_prompted(predictor, image, tmp_path / "out" / "prompted.png")
    pixels = read_prompted((tmp_path / "out" / "prompted.png").read_bytes(), 32)
    assert pixels.shape == (40, 32, 3)
    assert np.array_equal(pixels[:32], read_square(image.read_bytes(), 32, interpolation="bicubic"))


def test_an_rgb_png_answers_as_the_pgn(rgb, image, tmp_path):
    """The file is read back from the disk; without prompts the frozen ViT says something else."""
    written = write_prompted(rgb, image, tmp_path / "prompted.png")
    assert written.lossless
    assert written.alone[0] == written.full[0]
    assert written.alone[1] == pytest.approx(written.full[1], abs=1e-5)
    assert written.plain[1] != pytest.approx(written.full[1], abs=1e-4)
    lines = [*written.lines()]
    assert lines[0].endswith("prompted.png: 32 x 40 pixels, the image and 4 prompts below it")
    assert lines[1].endswith("exact in 8 bits")
    assert "condition number" in lines[2]
    assert lines[4].endswith("the same class")


def test_floating_point_loses_nothing_of_any_library(predictor, image, tmp_path):
    """The way for latent prompts, whose pixels do not fit into 8 bits."""
    written = write_prompted(predictor, image, tmp_path / "prompted.npy")
    assert written.lossless
    assert written.alone[1] == pytest.approx(written.full[1], abs=1e-5)
    array = np.load(tmp_path / "prompted.npy")
    assert (array.shape, array.dtype) == ((40, 32, 3), np.float32)


def test_a_png_of_latent_prompts_says_what_it_lost(tmp_path, image):
    """Prompts in the file are others than those the head was trained with; nobody should believe otherwise."""
    digest = make_backbone(tmp_path / "toy")
    predictor = Predictor(load_backbone(tmp_path / "toy"), read_bundle(make_bundle(tmp_path, "a", digest)))
    predictor.generator.library.tokens.mul_(100)
    written = write_prompted(predictor, image, tmp_path / "prompted.png")
    assert not written.lossless
    (line,) = [line for line in written.lines() if line.startswith("pixels of latent prompts")]
    share = float(line.partition("change the prompts by ")[2].partition("%")[0])
    assert share > 20
    assert line.endswith("(.npy keeps them)")


@pytest.mark.parametrize("name", ["prompted.jpg", "prompted", "prompted.webp"])
def test_a_format_that_changes_pixels_is_refused(rgb, image, tmp_path, name):
    """JPEG would lose the prompts and show nothing of it."""
    with pytest.raises(UsageError, match="would not keep the prompts"):
        write_prompted(rgb, image, tmp_path / name)
    assert not (tmp_path / name).exists()


def test_what_cannot_be_read_or_written_is_one_line(rgb, image, tmp_path):
    """A missing picture, a file that is none, a folder that is a file."""
    with pytest.raises(UsageError, match=r"no\.png cannot be read"):
        write_prompted(rgb, tmp_path / "no.png", tmp_path / "out.png")
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(NotAnImage):
        write_prompted(rgb, tmp_path / "text.png", tmp_path / "out.png")
    with pytest.raises(SetupError, match="cannot be written"):
        write_prompted(rgb, image, tmp_path / "text.png" / "out.png")


def test_any_viewer_can_open_the_png(rgb, image, tmp_path):
    """Eight bits, three channels, nothing private."""
    write_prompted(rgb, image, tmp_path / "prompted.png")
    with Image.open(tmp_path / "prompted.png") as opened:
        assert (opened.format, opened.mode, opened.size) == ("PNG", "RGB", (32, 40))
