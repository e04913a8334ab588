"""From a spec to a data set."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from pgn.errors import UsageError
from training.data.registry import open_dataset, open_datasets


@pytest.mark.parametrize("spec", ["digit", "folder:", "zip:x.zip", ""])
def test_an_unknown_spec_lists_the_choices(spec: str) -> None:
    """A slip costs one look at the message."""
    with pytest.raises(UsageError, match=r"choose from digits, fashion-mnist, folder:PATH, tar:PATH"):
        open_dataset(spec, Path("data"))


def test_a_limit_counts_each_class() -> None:
    """--limit keeps the classes balanced and leaves the test split whole."""
    dataset = open_datasets(["digits"], Path("data"), limit=7, limit_val=2)
    assert set(Counter(example.label for example in dataset.train).values()) == {7}
    assert set(Counter(example.label for example in dataset.val).values()) == {2}
    assert len(dataset.test) == 359


def test_no_spec_at_all_is_refused() -> None:
    """As a library call; the command line asks for one anyway."""
    with pytest.raises(UsageError, match="give at least one --dataset"):
        open_datasets([], Path("data"))
