"""Visual prompting: a frame of pixels."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pgn.errors import UsageError
from training.methods import METHODS
from training.methods.vp import PixelFrame
from training.result import count_parameters
from training.setting import Setting


def test_the_papers_frame_has_69840_values() -> None:
    """12 p (S - p) at p = 30 and S = 224."""
    assert count_parameters(PixelFrame(224, 30, 0.0).parameters()) == 69_840


def test_only_the_border_changes() -> None:
    """Every pixel of the border is learned, once; the middle stays the image's."""
    frame = PixelFrame(8, 2, 1.0).frame()
    assert frame.shape == (3, 8, 8)
    assert (frame[:, 2:6, 2:6] == 0).all()
    assert int((frame != 0).sum()) == 12 * 2 * (8 - 2)


@pytest.mark.parametrize(("given", "width"), [(None, 4), (7, 7)])
def test_its_width_is_the_papers_share_unless_given(
    given: int | None, width: int, make_setting: Callable[..., Setting]
) -> None:
    """30 of 224 pixels is 4 of 32."""
    adapter = METHODS["vp"].start(make_setting(method="vp", frame=given))
    assert isinstance(adapter, PixelFrame)
    assert adapter.top.shape == (3, width, 32)


def test_the_papers_start_is_an_option(make_setting: Callable[..., Setting]) -> None:
    """Normal with standard deviation 1; the default is zero."""
    adapter = METHODS["vp"].start(make_setting(method="vp", frame_std=1.0))
    assert isinstance(adapter, PixelFrame)
    assert 0.8 < adapter.top.std().item() < 1.2


def test_a_frame_that_leaves_no_image_is_refused(make_setting: Callable[..., Setting]) -> None:
    """The message says how large the image is, and what the paper took."""
    with pytest.raises(UsageError, match=r"a frame of 16 px leaves nothing of an image of 32 px \(--frame 4 is"):
        make_setting(method="vp", frame=16)
