"""`adapt recipes` and `adapt methods`: what can be trained, and how. The catalogues are the library's."""

from __future__ import annotations

from typing import Any

import click

from adapthub.cli.output import json_option, show_json, show_table


@click.command()
@json_option
def recipes(as_json: bool) -> None:
    """List the tasks that adapt train knows.

    What data they read, their metrics, and the settings that they start from.

    \b
    Example:
      $ adapt recipes
      $ adapt recipes --json
    """
    from dataclasses import asdict

    from adapthub.recipes.catalog import RECIPES

    records: list[dict[str, Any]] = [
        {
            "name": recipe.name,
            "task": recipe.task,
            "what": recipe.description,
            "formats": list(recipe.formats),
            "metrics": list(recipe.metrics),
            "options": dict(recipe.options),
            "defaults": asdict(recipe.defaults("lora")),
        }
        for recipe in RECIPES.values()
    ]
    if as_json:
        show_json(records)
        return
    show_table(records, ("name", "what", "formats", "metrics"))
    for record in records:
        click.echo(f"\n{record['name']} starts from (change with --set NAME=VALUE)")
        show_table(
            [{"setting": name, "value": value} for name, value in record["defaults"].items()],
            ("setting", "value"),
        )
        click.echo(f"\n{record['name']} reads data with")
        show_table(
            [{"option": name, "meaning": meaning} for name, meaning in record["options"].items()],
            ("option", "meaning"),
        )


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
