"""`--set NAME=VALUE`: arguments that have no option of their own. Does not know which a recipe or method takes."""

from __future__ import annotations

import json
from collections.abc import Callable
from inspect import signature
from typing import Any

import click
from click.core import ParameterSource

from adapthub.adapters.errors import InvalidSettings
from adapthub.cli.options import Command
from adapthub.cli.vocabulary import OPTIONS

LISTS = ("label_columns", "target_modules", "trainable_tokens")
"""What commas part. Everywhere else a comma is one of a text: a prompt, a system message."""
TEXTS = (
    "delimiter",
    "encoding",
    "label_separator",
    "language",
    "objective",
    "passage_prefix",
    "pooling",
    "prompt",
    "query_prefix",
    "scheme",
    "system",
    "template",
    "turns",
)
"""What stays a text though it looks like a number or a truth value; a column's name does, too."""
SET_BY_FILE = f"{__name__}.by_file"
"""Where a context's `meta` keeps what a file says under `set`."""


def set_option(words: str) -> Callable[[Command], Command]:
    """`--set`, any number of times; `words` are its help."""
    return click.option(
        "--set", "more", multiple=True, metavar="NAME=VALUE", callback=_beside_the_file, help=words
    )


def _beside_the_file(
    context: click.Context, parameter: click.Parameter, more: tuple[str, ...]
) -> tuple[str, ...]:
    """What a file sets, then what the command line does: of equal names the last one counts."""
    if context.get_parameter_source(str(parameter.name)) is ParameterSource.DEFAULT_MAP:
        return more  # the file's own
    return (*context.meta.get(SET_BY_FILE, ()), *more)


def settings(more: tuple[str, ...], *, of: str) -> dict[str, Any]:
    """Every --set by name, for the function `of` of recipes.

    Raises InvalidSettings for one that would pass as another of its arguments, or has a name from elsewhere of what `of`
    takes: what only training takes is suggested to training alone.
    """
    if not more:
        return {}
    from adapthub import recipes
    from adapthub.recipes.settings import OTHER_NAMES

    taken = signature(getattr(recipes, of)).parameters
    named = dict(map(setting, more))
    for name in named:
        ours = OTHER_NAMES.get(name)
        if ours is not None and (of == "train" or ours in taken):
            hint = f"Did you mean {OPTIONS.get(ours, f'--set {ours}')}?"
            raise InvalidSettings(f"--set {name}: there is no setting {name}", hint=hint)
        if name in taken:
            raise InvalidSettings(f"--set {name}: {name} is no setting of a recipe or a method")
    return named


def setting(text: str) -> tuple[str, Any]:
    """`max-length=48` as ("max_length", 48): JSON if it is JSON, of LISTS a list if commas part it, else text, and of TEXTS
    what else would be a number."""
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise InvalidSettings(f"--set {text} is not NAME=VALUE")
    name, parts = name.replace("-", "_"), value.split(",")
    kept = name in TEXTS or name.endswith(("_column", "_columns"))
    given = _value(value, kept)
    several = name in LISTS and given == value and len(parts) > 1 and all(parts)
    return name, [_value(part, kept) for part in parts] if several else given


def _value(text: str, kept: bool) -> Any:
    """`kept`: no number or truth value is meant."""
    try:
        value = json.loads(text)
    except ValueError:
        return text
    return text if kept and isinstance(value, (int, float)) else value
