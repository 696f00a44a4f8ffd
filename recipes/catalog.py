"""The recipes by name. A new task is a module beside `ner` and a line here."""

from __future__ import annotations

from collections.abc import Mapping

from adapthub.adapters.errors import InvalidSettings
from adapthub.adapters.suggest import did_you_mean
from adapthub.recipes.ner import Ner
from adapthub.recipes.recipe import Recipe
from adapthub.recipes.sentiment import Sentiment
from adapthub.recipes.summarize import Summarize
from adapthub.recipes.translate import Translate

RECIPES: Mapping[str, Recipe] = {
    recipe.name: recipe for recipe in (Ner(), Sentiment(), Summarize(), Translate())
}


def find_recipe(name: str) -> Recipe:
    """The recipe called `name`. Raises InvalidSettings with near names."""
    if name not in RECIPES:
        raise InvalidSettings(f"unknown task {name!r}", hint=did_you_mean(name, RECIPES))
    return RECIPES[name]
