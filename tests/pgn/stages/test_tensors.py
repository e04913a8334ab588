"""A forward pass fits into memory, however many rows it is asked for."""

from __future__ import annotations

import logging

import pytest
import torch
from torch import Tensor

from pgn.stages import tensors
from pgn.stages.tensors import in_pieces


class Tight:
    """A forward pass with room for so many rows, as a GPU has; it remembers the passes it was asked for."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.asked: list[int] = []

    def __call__(self, left: Tensor, right: Tensor) -> Tensor:
        self.asked.append(len(left))
        if len(left) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return left + right


ROWS = torch.arange(10.0)[:, None]


@pytest.mark.parametrize("room", [1, 3, 7])
def test_where_memory_is_short_a_pass_is_made_in_halves(room: int, caplog: pytest.LogCaptureFixture) -> None:
    """The rows are answered, later and in order, and the log says why it took longer."""
    forward = Tight(room)
    assert torch.equal(in_pieces(forward, ROWS, 100 * ROWS), 101 * ROWS)
    assert forward.asked[0] == 10
    assert "a pass over 10 rows found no memory" in caplog.text


def test_a_pass_that_fits_is_made_once(caplog: pytest.LogCaptureFixture) -> None:
    """The usual case costs nothing."""
    forward = Tight(10)
    with caplog.at_level(logging.WARNING):
        in_pieces(forward, ROWS, ROWS)
    assert (forward.asked, caplog.text) == ([10], "")


def test_no_room_for_one_row_is_an_error() -> None:
    """It ends: halving stops at one."""
    with pytest.raises(torch.OutOfMemoryError):
        in_pieces(Tight(0), ROWS, ROWS)


def test_a_pass_is_never_over_more_rows_than_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """One request may hold many images."""
    monkeypatch.setattr(tensors, "MAX_SEQUENCES", 4)
    forward = Tight(4)
    assert torch.equal(in_pieces(forward, ROWS, ROWS), 2 * ROWS)
    assert forward.asked == [4, 4, 2]
