"""A CSV file that lists images: columns `path` and `label`, and `split` where the splits are given."""

from __future__ import annotations

import csv
import os
from pathlib import Path

from pgn.errors import DataInvalid
from training.data.dataset import SPLITS, Dataset, SplitName
from training.data.labelled import Labelled, dataset_from_splits
from training.data.reading import ImageFile

_EXPECTED = "expected a first line `path,label` or `path,label,split`, then one image a line"
_SHOWN = 100  # characters of a first line that is not understood


def csv_file(path: Path) -> Dataset:
    """The images that the CSV at `path` lists; their paths are relative to the folder of the CSV.

    Without the column `split`, validation and test are drawn; with it, each row says train, val or test.

    Raises:
        DataInvalid: No such file, not such a CSV, a row without path or label, a split of another name, an image
            listed twice, or what `dataset_from_splits` raises.
    """
    splits: dict[SplitName, list[Labelled]] = {}
    lines: dict[str, int] = {}  # of each image, under one spelling of its path
    for line, row in _rows(path):
        file, label, split = (row.get(column, "").strip() for column in ("path", "label", "split"))
        split = split if "split" in row else "train"
        if not file or not label:
            raise DataInvalid(f"{path}, line {line}: path or label is empty", hint=_EXPECTED)
        if "\0" in file:
            raise DataInvalid(f"{path}, line {line}: the path holds a zero byte", hint="save the list as UTF-8 text")
        if split not in SPLITS:
            raise DataInvalid(f"{path}, line {line}: the split is {split!r}", hint="write train, val or test")
        image = os.path.normpath(path.parent.absolute() / file)
        if image in lines:
            raise DataInvalid(
                f"{path}: {file} is listed twice, in lines {lines[image]} and {line}",
                hint="list each image once: with two labels or in two splits it would spoil the result",
            )
        lines[image] = line
        splits.setdefault(split, []).append(Labelled(file, label, ImageFile(str(path.parent / file))))
    return dataset_from_splits(path.stem, str(path), splits, expected=_EXPECTED)


def _rows(path: Path) -> list[tuple[int, dict[str, str]]]:
    """Line number and cells of each row."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:  # spreadsheets write a byte order mark
            reader = csv.DictReader(file, restval="", strict=True, skipinitialspace=True)
            header = reader.fieldnames or ()
            if not {"path", "label"} <= set(header):
                raise DataInvalid(
                    f"{path} has no columns `path` and `label`: its first line is {','.join(header)[:_SHOWN]!r}",
                    hint=f"{_EXPECTED}; columns are separated by commas",
                )
            return [(reader.line_num, row) for row in reader]
    except OSError as error:
        raise DataInvalid(f"{path} cannot be read: {error.strerror}", hint="give a CSV file: csv:FILE") from error
    except (csv.Error, UnicodeDecodeError) as error:
        raise DataInvalid(f"{path} is no CSV file: {error}", hint=_EXPECTED) from error
