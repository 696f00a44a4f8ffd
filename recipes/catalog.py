"""The recipes by name. A new task is a module beside `ner` and a line here."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from adapthub.adapters.errors import InvalidSettings
from adapthub.adapters.suggest import did_you_mean
from adapthub.recipes import own
from adapthub.recipes.chat import Chat
from adapthub.recipes.classify import Classify
from adapthub.recipes.embed import Embed
from adapthub.recipes.images import ImageRecipe, MedicalImageRecipe
from adapthub.recipes.ner import Ner
from adapthub.recipes.prefer import Prefer
from adapthub.recipes.qa import QuestionAnswering
from adapthub.recipes.recipe import Recipe
from adapthub.recipes.sentiment import Sentiment
from adapthub.recipes.speech import SpeechRecognition
from adapthub.recipes.summarize import Summarize
from adapthub.recipes.translate import Translate

_ALL: tuple[Recipe, ...] = (
    Ner(),
    Sentiment(),
    Classify(),
    QuestionAnswering(),
    Embed(),
    Chat(),
    Summarize(),
    Translate(),
    Prefer(),
    SpeechRecognition(),
    ImageRecipe(),
    MedicalImageRecipe(),
)
RECIPES: Mapping[str, Recipe] = {recipe.name: recipe for recipe in _ALL}


def find_recipe(name: str) -> Recipe:
    """The recipe called `name`, or the one in the file `name`. Raises InvalidSettings with near names."""
    if name.endswith(own.SUFFIXES):
        return own.load_recipe(Path(name), find_recipe, RECIPES)
    if name not in RECIPES:
        raise InvalidSettings(f"unknown task {name!r}", hint=did_you_mean(name, RECIPES))
    return RECIPES[name]
