"""Runs described in files: a TOML of options, and the recipes that come with the project.

Keys are those of TrainConfig and Recipe, so the flags with underscores. What is said twice is decided by the nearer
word: a flag before the file, the file before the recipe.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pgn.errors import UsageError
from training.config import Recipe, TrainConfig

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

RECIPES = Path(__file__).parent / "recipes"


def gather_options(flags: Mapping[str, Any], *, file: Path | None = None, recipe: str | None = None) -> dict[str, Any]:
    """Everything that `plan` is to be given.

    Args:
        flags: Options of the command line; None, or an empty list, stands for "not given".
        file: A TOML file, which may name a recipe itself (`recipe = "small"`); or the config.json of a run.
        recipe: Name of a recipe of the project.

    Raises:
        UsageError: File or recipe cannot be read or has keys that are no options; or no data set or folder is named.
    """
    options = read_options(file) if file else {}
    recipe = recipe or options.pop("recipe", None)
    options = {**(read_recipe(recipe) if recipe else {}), **options}
    options |= {name: value for name, value in flags.items() if value not in (None, [])}
    options.pop("recipe", None)
    if missing := [name for name in ("dataset", "out") if not options.get(name)]:
        what = {"dataset": "--dataset, a name, folder:DIR, tar:FILE or csv:FILE", "out": "--out, the folder of the run"}
        raise UsageError(
            f"not given: {' and '.join(what[name] for name in missing)}", hint="or say it in a file, with --config"
        )
    return options


def said_options(flags: Mapping[str, Any], file: Path | None) -> list[str]:
    """What the user's own words name: flags, and a TOML file. A recipe, and a run's config.json, name all there is."""
    written = read_options(file) if file and file.suffix != ".json" else {}
    return list(dict.fromkeys([*(name for name, value in flags.items() if value not in (None, [])), *written]))


def read_recipe(name: str) -> dict[str, Any]:
    """The options of a recipe that comes with the project."""
    names = sorted(path.stem for path in RECIPES.glob("*.toml"))
    if name not in names:
        raise UsageError(f"there is no recipe {name!r}", hint=f"choose from {', '.join(names)}")
    return read_options(RECIPES / f"{name}.toml")


def read_options(file: Path) -> dict[str, Any]:
    """The options in a TOML file or in a run's config.json, whose recipe is taken apart."""
    try:
        text = file.read_text()
        found: Any = json.loads(text) if file.suffix == ".json" else tomllib.loads(text)
    except OSError as error:
        raise UsageError(f"{file} cannot be read: {error.strerror}") from error
    except ValueError as error:  # of either format
        raise UsageError(f"{file} is not what its name says: {error}") from error
    if not isinstance(found, dict):
        raise UsageError(f"{file} holds no options by name", hint="the config.json of a run shows the form")
    if isinstance(found.get("recipe"), dict):
        found |= found.pop("recipe")
    known = {*TrainConfig.model_fields, *Recipe.model_fields}
    if unknown := [name for name in found if name not in known]:
        raise UsageError(
            f"{file} has options that do not exist: {', '.join(unknown)}", hint="`pgn train --help` lists them"
        )
    return dict(found)
