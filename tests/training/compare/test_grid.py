"""From a TOML file to cells."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from pgn.errors import UsageError
from training.compare.grid import SHIPPED, Grid, find_grid, read_grid, shared_out
from training.config import TrainConfig

WriteGrid = Callable[[str], Path]

ONE_SET = '[sets.cats]\ndataset = "folder:cats"\n'


def test_cells_are_the_product_of_rows_sets_and_seeds(grid: Grid) -> None:
    """Seed by seed: a grid that is stopped early has one seed of everything."""
    assert [cell.name for cell in grid.cells()] == [
        "cats.pgn.s0",
        "cats.linear.s0",
        "dogs.pgn.s0",
        "dogs.linear.s0",
        "cats.pgn.s1",
        "cats.linear.s1",
        "dogs.pgn.s1",
        "dogs.linear.s1",
    ]


def test_the_nearer_option_wins(write_grid: WriteGrid) -> None:
    """The recipe's, then everybody's, then the set's, the method's, and the method's on that set."""
    words = 'title = ""\nrecipe = "small"\ncommon = {epochs = 2, shift = 0.2}\n'
    words += ONE_SET + "epochs = 3\nwarmup = 0.3\n"
    words += "[methods.iip]\nepochs = 4\nnum_prompts = 4\non.cats.epochs = 5\n"
    (cell,) = read_grid(write_grid(words)).cells()
    chosen = {name: cell.options[name] for name in ("epochs", "num_prompts", "shift", "warmup", "schedule")}
    assert chosen == {"epochs": 5, "num_prompts": 4, "shift": 0.2, "warmup": 0.3, "schedule": "cosine"}


def test_a_share_of_the_images_has_options_of_its_own(write_grid: WriteGrid) -> None:
    """Few images need more epochs; a method's word still goes over it."""
    words = 'title = ""\nfractions = [0.1, 1.0]\n' + ONE_SET + 'epochs = 3\nat."0.10" = {epochs = 30, warmup = 0.3}\n'
    words += "[methods.iip]\n[methods.pgn]\nepochs = 7\n"
    cells = {cell.name: cell.options for cell in read_grid(write_grid(words)).cells()}
    assert cells["cats.iip.s0"] == {"epochs": 3}
    assert cells["cats.iip.10pc.s0"] == {"epochs": 30, "warmup": 0.3}
    assert cells["cats.pgn.10pc.s0"] == {"epochs": 7, "warmup": 0.3}


def test_a_run_may_start_from_one_of_the_same_seed(write_grid: WriteGrid) -> None:
    """Seeds stay independent of each other also where one grid goes on from another, or from its own earlier cells."""
    words = 'seeds = [0, 7]\n[sets.digits]\ndataset = "digits"\n[methods.pgn]\nstart_from = {}\n'
    for given in ('"a/union.pgn.s{seed}"', '["a/union.pgn.s{seed}"]'):
        cells = read_grid(write_grid(words.format(given))).cells()
        assert [cell.options["start_from"] for cell in cells] == [["a/union.pgn.s0"], ["a/union.pgn.s7"]]


def test_a_row_may_be_a_variant_of_a_method(write_grid: WriteGrid) -> None:
    """Ablations are rows like any other, under a name that a folder can have."""
    words = 'title = ""\n' + ONE_SET + '[methods."K 16, no library"]\nmethod = "pgn"\nnum_prompts = 16\n'
    (cell,) = read_grid(write_grid(words)).cells()
    assert (cell.row, cell.method, cell.name) == ("K 16, no library", "pgn", "cats.K-16-no-library.s0")


def test_a_search_makes_a_cell_of_every_candidate(write_grid: WriteGrid) -> None:
    """All combinations, told apart by their folder."""
    words = 'title = ""\n' + ONE_SET
    words += "[methods.iip.search]\nlibrary_rate = [0.01, 0.1]\nnum_prompts = [2, 4]\n"
    cells = read_grid(write_grid(words)).cells()
    assert [cell.name for cell in cells][:2] == [
        "cats.iip.library_rate=0.01.num_prompts=2.s0",
        "cats.iip.library_rate=0.01.num_prompts=4.s0",
    ]
    assert len(cells) == 4
    assert cells[3].options["library_rate"] == 0.1


def test_blocks_choose_cells_and_what_stands_in_two_is_run_once(write_grid: WriteGrid) -> None:
    """Three seeds for one method, one for the other."""
    words = 'title = ""\nblocks = [{}, {methods = ["pgn"], seeds = [0, 1, 2], fractions = [1.0, 0.25]}]\n' + ONE_SET
    cells = read_grid(write_grid(words + "[methods]\npgn = {}\niip = {}\n")).cells()
    names = [cell.name for cell in cells]
    assert len(names) == len(set(names)) == 7
    assert "cats.pgn.25pc.s2" in names
    assert "cats.iip.s1" not in names


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        ("[methods.pgn]\nlibrry_rate = 1\n", "methods.pgn: `pgn train` has no option librry_rate"),
        ("[methods.pgn]\nseed = 1\n", "methods.pgn: seed is not set there"),
        ("[methods.vpn]\n", "there is no method vpn, only zero-shot"),
        ("[methods.pgn]\non.dogs.epochs = 1\n", "methods.pgn.on: sets has no dogs"),
        ("[methods.pgn]\nsearch.epochs = []\n", "methods.pgn.search.epochs lists nothing"),
        ('[methods.pgn]\n[[blocks]]\nsets = ["dogs"]\n', "blocks.0: sets has no dogs"),
        ("[methods.pgn]\n[[blocks]]\nfractions = [5]\n", "fractions: 5.0 is no share"),
        ('[sets.cats.at."0.3"]\n[methods.pgn]\n', "sets.cats.at.0.3: no cell has that share"),
        ('[sets.cats.at."1.0"]\nepoch = 3\n[methods.pgn]\n', "sets.cats.at.1: `pgn train` has no option epoch"),
        ('[methods.pgn]\n[methods."pgn "]\nmethod = "pgn"\n', "needs another name: the folder cats.pgn.s0 is taken"),
        ("", "methods: Field required"),
        ("[methods", "is not TOML"),
    ],
)
def test_a_grid_that_makes_no_sense_is_one_clear_line(write_grid: WriteGrid, words: str, fault: str) -> None:
    """Before the first cell is run, not after a night."""
    with pytest.raises(UsageError) as raised:
        read_grid(write_grid('title = ""\n' + ONE_SET + words))
    assert fault in str(raised.value)
    assert "\n" not in str(raised.value)


def test_all_faults_are_named_at_once(write_grid: WriteGrid) -> None:
    """Mended in one go."""
    with pytest.raises(UsageError, match=r"has no option a; .*has no option b"):
        read_grid(write_grid('title = ""\n' + ONE_SET + "[methods.pgn]\na = 1\n[methods.iip]\nb = 1\n"))


def test_a_grid_without_a_title_is_called_as_its_file_is(write_grid: WriteGrid) -> None:
    """A title that is missing must not hide what else is wrong."""
    assert read_grid(write_grid(ONE_SET + "[methods.pgn]\n")).title == "grid"
    with pytest.raises(UsageError, match="has no option a"):
        read_grid(write_grid(ONE_SET + "[methods.pgn]\na = 1\n"))


def test_parts_share_all_cells_out(grid: Grid) -> None:
    """No cell is lost, none is run twice."""
    cells = grid.cells()
    parts = [shared_out(cells, f"{number}/3") for number in (1, 2, 3)]
    assert sorted(cell.name for part in parts for cell in part) == sorted(cell.name for cell in cells)
    assert [len(part) for part in parts] == [3, 3, 2]


@pytest.mark.parametrize("part", ["0/2", "3/2", "2", "a/b"])
def test_a_part_that_there_is_not_is_refused(grid: Grid, part: str) -> None:
    """It would run nothing, or everything."""
    with pytest.raises(UsageError, match="write N/M"):
        shared_out(grid.cells(), part)


@pytest.mark.parametrize("path", sorted(SHIPPED.glob("*.toml")), ids=lambda path: path.stem)
def test_shipped_grids_can_be_run(path: Path) -> None:
    """Every cell's options are those of a config; the images need not be there."""
    for cell in read_grid(find_grid(path.stem)).cells():
        recipe = {name: value for name, value in cell.options.items() if name not in TrainConfig.model_fields}
        rest = {name: value for name, value in cell.options.items() if name in TrainConfig.model_fields}
        TrainConfig(dataset=cell.dataset, out=path, method=cell.method, seed=cell.seed, recipe=recipe, **rest)


def test_an_unknown_grid_lists_the_shipped_ones() -> None:
    """Whoever mistypes a name sees it."""
    with pytest.raises(UsageError, match="ablations, all-methods, clothes-encoder, encoder-first, fractions"):
        find_grid("al-methods")


def test_a_list_of_one_set_is_no_union(write_grid: Callable[[str], Path]) -> None:
    """It counts in the means as if it stood alone."""
    grid = read_grid(write_grid('title = "One"\n[sets.digits]\ndataset = ["digits"]\n[methods.pgn]\n'))
    assert grid.sets["digits"].dataset == "digits"
