"""The recipes: study files that ship with the package, one per result of a paper, and how a study is found by name."""

from __future__ import annotations

from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import NamedTuple

from isogloss.errors import RunError
from isogloss.workflows.study.settings import Study

__all__ = ["FoundStudy", "find_study", "recipe_names"]

_SUFFIX = ".toml"


class FoundStudy(NamedTuple):
    """A study, and the recipe that it is; None where it is a file of the user's."""

    study: Study
    recipe: Study | None


def recipe_names() -> tuple[str, ...]:
    """List the recipes, such as ``paper-a/qwen3-mgsm``."""
    return tuple(sorted(_files()))


def find_study(name: str) -> FoundStudy:
    """Read a recipe by its name, or any study by the path of its file.

    Raises:
        RunError: there is neither, or the file is no study.
    """
    path, recipes = Path(name), _files()
    if name in recipes and not path.is_file():
        with resources.as_file(recipes[name]) as file:
            recipe = Study.read_toml(file)
        return FoundStudy(recipe, recipe)
    if not path.is_file():
        raise RunError(
            f"{name}: there is no such file, and no recipe of this name; the recipes are {', '.join(sorted(recipes))}"
        )
    return FoundStudy(Study.read_toml(path), None)


def _files() -> dict[str, Traversable]:
    """Return name to file."""
    root = resources.files("isogloss") / "recipes"
    return {
        f"{folder.name}/{file.name.removesuffix(_SUFFIX)}": file
        for folder in root.iterdir()
        if folder.is_dir()
        for file in folder.iterdir()
        if file.name.endswith(_SUFFIX)
    }
