"""Recipes of the user's own: a Python file that makes one, or a YAML file that says how one of ours is used.

A Python file is run, as any program that its user names; it assigns a recipe to `recipe`. A YAML file runs nothing:

    like: sentiment
    description: which team a ticket is for
    options: {text_column: body, label_column: queue}
    defaults: {learning_rate: 0.002, epochs: 5}

Does not know the catalogue; writes the skeletons of both.
"""

from __future__ import annotations

import runpy
from collections.abc import Callable, Container, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import yaml

from adapthub.adapters.errors import InvalidSettings
from adapthub.adapters.suggest import did_you_mean
from adapthub.recipes.data.dataset import Dataset
from adapthub.recipes.recipe import Defaults, EmbeddingRecipe, GeneratingRecipe, LabellingRecipe, Recipe

SUFFIXES = (".py", ".yaml", ".yml")
_KEYS = ("like", "description", "options", "defaults")
_DEFAULTS = tuple(
    field.name for field in fields(Defaults) if field.name not in ("reasons", "by_width", "in_short_runs")
)
_COUNTED = ("epochs", "max_length")  # of which a plan says what they come to, whoever chose them
_PYTHON = '''"""A recipe of my own, for adapt train --task {path}."""

from dataclasses import dataclass

from {module} import {parent}


@dataclass(frozen=True)
class Own({parent}):
    """Change what differs; everything else is {parent}'s. See adapthub.recipes.recipe for what each method promises."""

    name: str = "{name}"
    description: str = "what it is for"

    def defaults(self, method):
        # A rate of its own: return dataclasses.replace(super().defaults(method), learning_rate=2e-4)
        return super().defaults(method)


recipe = Own()
'''
_YAML = """# A recipe of my own, for adapt train --task {path}: {parent}, used in a way that need not be said each time.
like: {parent}
description: what it is for
options: {{}}  # how data is read: {options}
defaults: {{}}  # what runs start from: {defaults}
"""


def load_recipe(path: Path, find: Callable[[str], Recipe], ours: Container[str]) -> Recipe:
    """The recipe in `path`; `find` knows ours, whose names are `ours`, by name. Raises InvalidSettings saying what is wrong
    with the file."""
    if not path.is_file():
        raise InvalidSettings(f"{path}: no such recipe file", hint="Write one with adapt recipes new.")
    return _of_python(path, ours) if path.suffix == ".py" else _of_yaml(path, find)


def skeleton(path: Path, parent: Recipe) -> str:
    """The text of a new recipe file for `path`, by its suffix; `parent` is what it begins as."""
    if path.suffix == ".py":
        kind = type(parent)
        return _PYTHON.format(path=path.name, module=kind.__module__, parent=kind.__name__, name=path.stem)
    return _YAML.format(
        path=path.name,
        parent=parent.name,
        options=", ".join(parent.options),
        defaults=", ".join(_DEFAULTS),
    )


def _of_python(path: Path, ours: Container[str]) -> Recipe:
    try:
        made = runpy.run_path(str(path)).get("recipe")
    except Exception as error:  # whatever its author's code raises
        raise InvalidSettings(f"{path}: {type(error).__name__}: {error}") from error
    # A class has the methods, too, but nothing to call them on.
    if isinstance(made, type) or not isinstance(made, (LabellingRecipe, GeneratingRecipe, EmbeddingRecipe)):
        raise InvalidSettings(
            f"{path} assigns no recipe to the name recipe",
            hint="It is an object with the methods of a LabellingRecipe, a GeneratingRecipe or an EmbeddingRecipe.",
        )
    if made.name in ours:
        raise InvalidSettings(
            f"{path}: its recipe is called {made.name!r}, as one of ours, by which its adapters would be read",
            hint="Give it a name of its own.",
        )
    return made


def _of_yaml(path: Path, find: Callable[[str], Recipe]) -> Recipe:
    try:
        written = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InvalidSettings(f"{path}: {' '.join(str(error).split())}") from error
    if not isinstance(written, dict) or not isinstance(written.get("like"), str):
        raise InvalidSettings(f"{path} does not say what recipe it is like", hint="Write like: NAME.")
    _check_names(path, "", written, _KEYS)
    like = written["like"]
    beside = path.parent / like  # as in other files that name files
    try:
        parent = find(str(beside) if like.endswith(SUFFIXES) and beside.is_file() else like)
    except RecursionError:
        raise InvalidSettings(f"{path} is like itself", hint="Name another recipe after like.") from None
    description = written.get("description", parent.description)
    if not isinstance(description, str):
        raise InvalidSettings(f"{path}: description is a text; {description!r} is not")
    options, defaults = (_part(path, written, name) for name in ("options", "defaults"))
    _check_names(path, "options.", options, tuple(parent.options))
    _check_names(path, "defaults.", defaults, _DEFAULTS)
    reasons = {name: f"{path.name} says so" for name in defaults if name not in _COUNTED}
    return _derived(parent, description, options, defaults, reasons)


def _part(path: Path, written: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    part = written.get(name) or {}
    if not isinstance(part, dict):
        raise InvalidSettings(f"{path}: {name} is a mapping of names to values; {part!r} is not")
    return {key: _number(value) for key, value in part.items()} if name == "defaults" else part


def _number(value: Any) -> Any:
    """2e-3 is a text to YAML 1.1, which wants 2.0e-3."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


def _check_names(path: Path, where: str, given: Mapping[Any, Any], known: tuple[str, ...]) -> None:
    for name in given:
        if name not in known:
            near = did_you_mean(str(name), known) or f"There is: {', '.join(known)}."
            raise InvalidSettings(f"{path}: there is no {where}{name}", hint=near)


def _derived(
    parent: Recipe,
    description: str,
    options: Mapping[str, Any],
    own: Mapping[str, Any],
    reasons: Mapping[str, str],
) -> Recipe:
    """`parent` with other words, options and defaults, and the reasons of these. It keeps its name: what it trains is read
    as its adapters are."""
    kind: Any = type(parent)

    class Derived(kind):  # type: ignore[misc]
        def defaults(self, method: str) -> Defaults:
            defaults: Defaults = super().defaults(method)
            if "learning_rate" in own:  # for every base and every length
                defaults = replace(defaults, by_width=False, in_short_runs=None)
            return replace(defaults, **own, reasons={**defaults.reasons, **reasons})

        def read(self, source: Any, **given: Any) -> Dataset:
            dataset: Dataset = super().read(source, **{**options, **given})
            return dataset

    made: Recipe = Derived(**{**vars(parent), "description": description})
    return made
