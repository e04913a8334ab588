"""The whole service for as long as a leak needs to show."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.soak import soak
from tests.servers import make_settings
from tests.toys import make_store


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_twenty_thousand_requests_are_answered_right_and_leave_nothing_behind(tmp_path: Path) -> None:
    """One in fifty is bad and gets its own status; threads do not grow, and memory stays where it was."""
    store = make_store(tmp_path / "store", ["flowers", "pets", "shapes"]).root
    soaked = soak(make_settings(store, tmp_path), requests=20_000, clients=32)
    assert not soaked.wrong, soaked.wrong[:3]
    assert set(soaked.statuses) == {200}
    assert set(soaked.bad_statuses) == {400, 404, 413, 415, 422}
    _, middle, end = soaked.footprints
    for name in middle:
        assert end[name].threads <= middle[name].threads + 2, name
        assert end[name].pss_mb <= middle[name].pss_mb + 20, name
