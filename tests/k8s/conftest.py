"""What rehearsals of pods need."""

from __future__ import annotations

import pytest

from tests.k8s.boxes import why_not


@pytest.fixture(scope="session")
def namespaces() -> None:
    """Linux namespaces without root; a container of a continuous integration may not have them."""
    if reason := why_not():
        pytest.skip(reason)
