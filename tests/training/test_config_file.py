"""Runs described in files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pgn.errors import UsageError
from training.config import open_images, plan
from training.config_file import RECIPES, gather_options, read_recipe, said_options
from training.run import RunFolder

FLAGS: dict[str, Any] = {"dataset": None, "out": None, "epochs": None, "start_from": []}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """What a user writes."""
    path = tmp_path / "run.toml"
    path.write_text('dataset = "digits"\nout = "runs/x"\nepochs = 7\nseed = 3\n')
    return path


def test_a_file_is_enough(file: Path) -> None:
    """No flag is needed; one data set need not be a list, nor one bundle to start from."""
    file.write_text(file.read_text() + 'start_from = "runs/union"\n')
    config = plan(**gather_options(FLAGS, file=file))
    assert (config.dataset, config.out, config.recipe.epochs, config.seed) == (("digits",), Path("runs/x"), 7, 3)
    assert config.start_from == (Path("runs/union"),)


def test_the_nearer_word_counts(file: Path) -> None:
    """A flag before the file, the file before the recipe."""
    options = gather_options({**FLAGS, "seed": 5}, file=file, recipe="small")
    assert (options["seed"], options["epochs"], options["patience"]) == (5, 7, 15)


def test_a_file_may_name_a_recipe(file: Path) -> None:
    """And stands before it."""
    file.write_text(file.read_text() + 'recipe = "paper"\n')
    options = gather_options(FLAGS, file=file)
    assert (options["optimizer"], options["epochs"]) == ("sgd", 7)
    assert "recipe" not in options


@pytest.mark.parametrize("name", [path.stem for path in RECIPES.glob("*.toml")])
def test_every_recipe_is_a_config(name: str, tmp_path: Path) -> None:
    """All its keys are options, with values that make sense."""
    recipe = read_recipe(name)
    config = plan(["digits"], tmp_path, **recipe)
    flat = config.model_dump() | config.recipe.model_dump()
    assert {key: flat[key] for key in recipe} == recipe


def test_the_config_of_a_run_makes_it_again(tmp_path: Path) -> None:
    """config.json is whole: only --out is another."""
    config = plan(["digits"], tmp_path / "first", num_prompts=4, patience=2, flip=False)
    RunFolder(config, open_images(config)).claim()
    again = plan(**gather_options({"out": tmp_path / "second"}, file=tmp_path / "first" / "config.json"))
    assert again == config.model_copy(update={"out": tmp_path / "second"})


def test_keys_that_are_no_options_are_named(file: Path) -> None:
    """All of them; a misspelt one would train something else."""
    file.write_text("epoch = 3\nlibrary_rates = 1\n")
    with pytest.raises(UsageError, match=r"run\.toml has options that do not exist: epoch, library_rates"):
        gather_options(FLAGS, file=file)


def test_a_file_that_is_no_toml_is_named(file: Path) -> None:
    """With the place of the fault."""
    file.write_text("epochs 3")
    with pytest.raises(UsageError, match=r"run\.toml is not what its name says: .*line 1"):
        gather_options(FLAGS, file=file)
    with pytest.raises(UsageError, match=r"none\.toml cannot be read: No such file"):
        gather_options(FLAGS, file=file.with_name("none.toml"))


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("dataset = 5", "dataset = 5: Input should be a valid tuple"),
        ("out = 5", "out = 5: Input is not a valid path"),
        ('method = ["pgn"]', r"there is no method \['pgn'\]"),
        ("recipe = 5", "there is no recipe 5"),
        ("start_from = [1]", r"start_from\.0 = 1: Input is not a valid path"),
    ],
)
def test_a_value_of_another_kind_is_named(file: Path, line: str, says: str) -> None:
    """Nothing in a file becomes a traceback."""
    kept = [old for old in file.read_text().splitlines() if old.split()[0] != line.split()[0]]
    file.write_text("\n".join([*kept, line]))
    with pytest.raises(UsageError, match=says):
        plan(**gather_options(FLAGS, file=file))


def test_a_json_without_names_is_named(tmp_path: Path) -> None:
    """A list is no config."""
    (tmp_path / "config.json").write_text("[1, 2]")
    with pytest.raises(UsageError, match=r"config\.json holds no options by name"):
        gather_options(FLAGS, file=tmp_path / "config.json")


def test_what_the_user_says_is_flags_and_file(file: Path, tmp_path: Path) -> None:
    """Not the recipe, nor a run's config, which name what every method reads."""
    file.write_text(file.read_text() + 'recipe = "small"\n')
    assert said_options({**FLAGS, "seed": 5, "frame": 4}, file) == [
        "seed",
        "frame",
        "dataset",
        "out",
        "epochs",
        "recipe",
    ]
    (tmp_path / "config.json").write_text('{"frame": null, "library_size": 64}')
    assert said_options({**FLAGS, "seed": 5}, tmp_path / "config.json") == ["seed"]


def test_an_unknown_recipe_is_named() -> None:
    """Beside those that there are."""
    with pytest.raises(UsageError, match=r"there is no recipe 'large' \(choose from paper, small\)"):
        gather_options(FLAGS, recipe="large")


def test_a_data_set_and_a_folder_are_needed() -> None:
    """From wherever."""
    with pytest.raises(UsageError, match=r"not given: --dataset, a name, .* and --out, the folder of the run"):
        gather_options(FLAGS, recipe="small")
