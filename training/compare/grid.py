"""A grid of runs as one TOML file says it: methods x sets x data fractions x seeds, each of them one cell.

A row of the comparison is a method with options of its own, under a name of its own; so a variant in an ablation is
a row like any other. The page of the format is docs/compare.md.
"""

from __future__ import annotations

import itertools
import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, TypeAlias

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from pgn.errors import UsageError
from training.config import Recipe, TrainConfig
from training.config_file import read_recipe
from training.methods import METHODS

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

Options: TypeAlias = dict[str, Any]

SHIPPED: Final = Path(__file__).parents[1] / "grids"
_RESERVED: Final = {"dataset", "out", "seed", "fraction", "data_dir", "name", "recipe"}  # what the grid itself sets


def _no_union_of_one(given: object) -> object:
    return given[0] if isinstance(given, list) and len(given) == 1 else given


class SetEntry(BaseModel):
    """A column: which images, and options for every run on them (any of `pgn train`, written beside `dataset`).

    `dataset` holds specs, several for a union; `{data}` in one stands for the folder of the images. `at` holds options
    for single shares of its training images: a few images need more epochs.
    """

    model_config = ConfigDict(frozen=True, extra="allow")

    dataset: Annotated[str | tuple[str, ...], BeforeValidator(_no_union_of_one)]
    at: dict[float, Options] = {}


class MethodEntry(BaseModel):
    """A row: a method and options for it (any of `pgn train`, written beside these fields).

    `method` defaults to the row's name. `search` lists candidates of options, of which validation chooses. `on` holds
    options for single sets. `tables` names the tables that the row stands in; by default the first.
    """

    model_config = ConfigDict(frozen=True, extra="allow")

    method: str | None = None
    search: dict[str, list[Any]] = {}
    on: dict[str, Options] = {}
    tables: tuple[str, ...] = ("",)


class Block(BaseModel):
    """Which cells there are: the product of these. What is not given comes from the grid."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    methods: tuple[str, ...] | None = None
    sets: tuple[str, ...] | None = None
    seeds: tuple[int, ...] | None = None
    fractions: tuple[float, ...] | None = None


class Grid(BaseModel):
    """The whole file. Options of `recipe` and `common` hold for every run; the nearer word decides.

    Nearer are those of the set, then of the set at that share, of the method, and of the method on that set. In
    `start_from`, `{seed}` stands for the cell's seed.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    title: str
    about: str = ""
    seeds: tuple[int, ...] = (0,)
    fractions: tuple[float, ...] = (1.0,)
    recipe: str | None = None
    common: Options = {}
    sets: dict[str, SetEntry] = Field(min_length=1)
    methods: dict[str, MethodEntry] = Field(min_length=1)
    blocks: tuple[Block, ...] = (Block(),)

    def cells(self) -> tuple[Cell, ...]:
        """All cells, in the order in which they are run: block by block, and in a block seed by seed.

        So a grid that is stopped early has one seed of everything before it has three of anything.
        """
        return tuple({cell.name: cell for cell in self.places()}.values())

    def places(self) -> Iterable[Cell]:
        """The cells of each block after another; what stands in two blocks comes twice."""
        for block in self.blocks:
            for seed, fraction, name, row in itertools.product(
                block.seeds or self.seeds,
                block.fractions or self.fractions,
                block.sets or self.sets,
                block.methods or self.methods,
            ):
                for searched in _candidates(self.methods[row].search):
                    yield self._cell(row, name, fraction, seed, searched)

    def _cell(self, row: str, name: str, fraction: float, seed: int, searched: Options) -> Cell:
        images, method = self.sets[name], self.methods[row]
        options = {
            **(read_recipe(self.recipe) if self.recipe else {}),
            **self.common,
            **(images.model_extra or {}),
            **images.at.get(fraction, {}),
            **(method.model_extra or {}),
            **method.on.get(name, {}),
            **searched,
        }
        if "start_from" in options:
            options["start_from"] = _of_seed(options["start_from"], seed)
        return Cell(
            row=row,
            method=method.method or row,
            set=name,
            dataset=(images.dataset,) if isinstance(images.dataset, str) else images.dataset,
            fraction=fraction,
            seed=seed,
            searched=searched,
            options=options,
        )


@dataclass(frozen=True)
class Cell:
    """One run of the grid.

    Attributes:
        row: Name of its row.
        method: The registered method behind it.
        set: Name of its column.
        dataset: Specs of its images, `{data}` not yet filled in.
        fraction: Share of the training images, above 0 and at most 1.
        seed: Of the run.
        searched: The candidate values that this cell tries; empty without a search.
        options: All options of `pgn train`, the searched ones among them.
    """

    row: str
    method: str
    set: str
    dataset: tuple[str, ...]
    fraction: float
    seed: int
    searched: Options
    options: Options

    @property
    def name(self) -> str:
        """The cell's folder: the same for the same place in the grid, whatever else the file says."""
        parts = [self.set, self.row]
        if self.fraction != 1:
            parts.append(f"{100 * self.fraction:g}pc")
        parts += [f"{name}={value}" for name, value in self.searched.items()]
        return ".".join(re.sub(r"[^A-Za-z0-9_.=-]+", "-", part).strip("-") for part in [*parts, f"s{self.seed}"])

    def __str__(self) -> str:
        words = [self.row, "on", self.set]
        if self.fraction != 1:
            words.append(f"{100 * self.fraction:g} %")
        words += [f"{name} {value}" for name, value in self.searched.items()]
        return " ".join([*words, f"seed {self.seed}"])


def _of_seed(start_from: object, seed: int) -> object:
    """Where runs of this seed start: `{seed}` in a path stands for it. What is no path is left to the check."""
    paths = [start_from] if isinstance(start_from, str) else start_from
    if not isinstance(paths, list):
        return start_from
    return [path.replace("{seed}", str(seed)) if isinstance(path, str) else path for path in paths]


def _candidates(search: dict[str, list[Any]]) -> Iterable[Options]:
    """Every combination of the values; one empty one without a search."""
    for values in itertools.product(*search.values()):
        yield dict(zip(search, values, strict=True))


def find_grid(text: str) -> Path:
    """The file that `text` names: a path, or the name of a grid that comes with the program.

    Raises:
        UsageError: Neither; the message lists the shipped ones.
    """
    path = Path(text)
    shipped = SHIPPED / f"{text}.toml"
    if path.is_file():
        return path
    if shipped.is_file():
        return shipped
    names = ", ".join(sorted(file.stem for file in SHIPPED.glob("*.toml")))
    raise UsageError(f"there is no grid {text}", hint=f"give a TOML file, or one of {names}")


def read_grid(path: Path) -> Grid:
    """The grid in the TOML file at `path`; one without a title is called as the file is.

    Raises:
        UsageError: Not to be read, no TOML, or it says something that makes no sense; every fault is named.
    """
    try:
        grid = Grid.model_validate({"title": path.stem, **tomllib.loads(path.read_text())})
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not TOML: {error}") from error
    except ValidationError as error:
        faults = [f"{'.'.join(map(str, f['loc']))}: {f['msg']}" for f in error.errors()]
        raise UsageError(f"{path}: {'; '.join(faults)}", hint="docs/compare.md describes the file") from error
    faults = [*_unknown_options(grid), *_unknown_names(grid), *_wrong_shares(grid)]
    if faults := faults or [*_same_folders(grid)]:  # cells can be made only of names that there are
        raise UsageError(f"{path}: {'; '.join(faults)}", hint="docs/compare.md describes the file")
    return grid


def _unknown_options(grid: Grid) -> Iterable[str]:
    known = ({*TrainConfig.model_fields, *Recipe.model_fields}) - _RESERVED - {"method"}
    places: dict[str, Iterable[str]] = {"common": grid.common}
    for name, images in grid.sets.items():
        places[f"sets.{name}"] = images.model_extra or {}
        places |= {f"sets.{name}.at.{share:g}": options for share, options in images.at.items()}
    for name, method in grid.methods.items():
        places[f"methods.{name}"] = [*(method.model_extra or {}), *method.search]
        for on, options in method.on.items():
            places[f"methods.{name}.on.{on}"] = options
    for place, named in places.items():
        for option in named:
            if option in _RESERVED:
                yield f"{place}: {option} is not set there"
            elif option not in known:
                yield f"{place}: `pgn train` has no option {option}"


def _unknown_names(grid: Grid) -> Iterable[str]:
    for number, block in enumerate(grid.blocks):
        for kind, names, known in (("methods", block.methods, grid.methods), ("sets", block.sets, grid.sets)):
            for name in names or ():
                if name not in known:
                    yield f"blocks.{number}: {kind} has no {name}"
    for name, method in grid.methods.items():
        if (method.method or name) not in METHODS:
            yield f"methods.{name}: there is no method {method.method or name}, only {', '.join(METHODS)}"
        yield from (f"methods.{name}.on: sets has no {on}" for on in method.on if on not in grid.sets)
        yield from (f"methods.{name}.search.{key} lists nothing" for key, found in method.search.items() if not found)


def _wrong_shares(grid: Grid) -> Iterable[str]:
    there = {*grid.fractions, *(f for block in grid.blocks for f in block.fractions or ())}
    for fraction in there:
        if not 0 < fraction <= 1:
            yield f"fractions: {fraction} is no share above 0 and up to 1"
    for name, images in grid.sets.items():
        yield from (f"sets.{name}.at.{share:g}: no cell has that share" for share in images.at if share not in there)


def _same_folders(grid: Grid) -> Iterable[str]:
    """Names that differ only in signs that a folder cannot have."""
    owners: dict[str, tuple[str, str]] = {}
    for cell in grid.places():
        if owners.setdefault(cell.name, (cell.row, cell.set)) != (cell.row, cell.set):
            yield f"methods.{cell.row} on {cell.set} needs another name: the folder {cell.name} is taken"


def shared_out(cells: Sequence[Cell], part: str) -> Sequence[Cell]:
    """The cells of part N of M, written `N/M` with N from 1: every M-th, so that parts are about equal work.

    Raises:
        UsageError: Not of that form, or N outside 1..M.
    """
    match = re.fullmatch(r"(\d+)/(\d+)", part)
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise UsageError(f"--only {part} names no part", hint="write N/M with N from 1 to M, e.g. 1/4")
    return cells[int(match[1]) - 1 :: int(match[2])]
