"""`adapt recipes` and `adapt methods`: what can be trained, and how. The catalogues are the library's."""

from __future__ import annotations

from pathlib import Path
from shlex import quote
from typing import Any

import click

from adapthub.adapters.errors import Conflict, InvalidSettings, StorageError
from adapthub.cli.output import json_option, show_json, show_table


@click.group(invoke_without_command=True)
@json_option
@click.pass_context
def recipes(context: click.Context, as_json: bool) -> None:
    """List what adapt train knows, or write your own.

    What data they read, their metrics, and the settings that they start from.

    \b
    Example:
      $ adapt recipes
      $ adapt recipes --json
    """
    if context.invoked_subcommand is not None:
        return
    from dataclasses import asdict

    from adapthub.recipes.catalog import RECIPES

    defaults = {name: recipe.defaults("lora") for name, recipe in RECIPES.items()}
    records: list[dict[str, Any]] = [
        {
            "name": recipe.name,
            "task": recipe.task,
            "what": recipe.description,
            "formats": list(recipe.formats),
            "metrics": list(recipe.metrics),
            "options": dict(recipe.options),
            "defaults": {**asdict(defaults[name]), "by_width": defaults[name].follows_width},
        }
        for name, recipe in RECIPES.items()
    ]
    if as_json:
        show_json(records)
        return
    show_table(records, ("name", "what", "formats", "metrics"))
    for record in records:
        click.echo(f"\n{record['name']} starts from (change with --set NAME=VALUE)")
        show_table(
            [
                {"setting": name, "value": value, "why": record["defaults"]["reasons"].get(name, "")}
                for name, value in record["defaults"].items()
                if name not in ("reasons", "by_width", "in_short_runs")
            ],
            ("setting", "value", "why"),
        )
        click.echo(f"\n{record['name']} reads data with")
        show_table(
            [{"option": name, "meaning": meaning} for name, meaning in record["options"].items()],
            ("option", "meaning"),
        )


@recipes.command("new")
@click.argument("path", metavar="FILE", type=click.Path(path_type=Path))
@click.option("--like", default="sentiment", show_default=True, help="The recipe that it begins as.")
def new_recipe(path: Path, like: str) -> None:
    """Write the skeleton of a recipe of your own to FILE, which ends in .yaml or .py.

    YAML says how one of ours is used; Python may change everything. Train with adapt train --task FILE.

    \b
    Example:
      $ adapt recipes new tickets.yaml
      $ adapt recipes new entities.py --like ner
    """
    from adapthub.recipes.catalog import RECIPES, find_recipe
    from adapthub.recipes.own import SUFFIXES, skeleton

    if path.suffix not in SUFFIXES:
        raise InvalidSettings(f"{path} is no recipe file", hint=f"End its name in {' or '.join(SUFFIXES)}.")
    if like.endswith(SUFFIXES):  # what is in it would be lost
        raise InvalidSettings(
            f"--like names one of ours, and {like} is a file", hint=f"There is: {', '.join(RECIPES)}."
        )
    if path.suffix == ".py" and path.stem in RECIPES:  # a recipe in Python is called as its file
        raise InvalidSettings(f"{path} is called as one of ours", hint="Choose another name.")
    text = skeleton(path, find_recipe(like))
    try:
        with path.open("x", encoding="utf-8") as stream:
            stream.write(text)
    except FileExistsError:
        raise Conflict(f"{path} is there already", hint="Choose another name.") from None
    except OSError as error:
        raise StorageError(f"{path} cannot be written: {error.strerror or error}") from error
    click.echo(f"Wrote {path}; try: adapt plan --task {quote(str(path))} --data FILE --base MODEL")


@click.command()
@json_option
def methods(as_json: bool) -> None:
    """List the adapter methods, their settings, defaults and why.

    \b
    Example:
      $ adapt methods
      $ adapt methods --json
    """
    from adapthub.adapters.methods import METHODS

    records: list[dict[str, Any]] = [
        {
            "name": method.name,
            "what": method.summary,
            "settings": {
                setting: {
                    "default": default.value,
                    "why": default.reason,
                    "for_generation": method.generation[setting].value,
                }
                for setting, default in method.classification.items()
            },
        }
        for method in METHODS.values()
    ]
    if as_json:
        show_json(records)
        return
    show_table(records, ("name", "what"))
    rows = [
        {"method": method.name, "setting": setting, "default": default.value, "why": default.reason}
        for method in METHODS.values()
        for setting, default in method.classification.items()
    ]
    click.echo("\nDefaults for classification; change them with --rank, --alpha or --set NAME=VALUE")
    show_table(rows, ("method", "setting", "default", "why"))
