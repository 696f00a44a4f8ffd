"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])


def base_option(default: str) -> Callable[[Command], Command]:
    """`--base`; `default` says in words what holds without it."""
    return click.option(
        "--base", metavar="MODEL", help=f"A Hub id, a folder, or package:NAME. Default: {default}."
    )


def complete_names(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """Names in the hub for a shell that completes them: `acme/ner`, and after @ its aliases and versions."""
    from adapthub.hub import open_hub

    name, at, _ = incomplete.partition("@")
    entries = open_hub().list()
    if not at:
        return [entry.name for entry in entries if entry.name.startswith(name)]
    revisions = [
        revision
        for entry in entries
        if entry.name == name
        for revision in (*entry.aliases, *(f"v{number}" for number in range(entry.versions, 0, -1)))
    ]
    return [f"{name}@{revision}" for revision in revisions if f"{name}@{revision}".startswith(incomplete)]


def complete_aliases(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """The aliases that the adapter named before has."""
    from adapthub.hub import open_hub

    name = (context.params.get("ref") or context.params.get("name") or "").partition("@")[0]
    aliases = [alias for entry in open_hub().list() if entry.name == name for alias in entry.aliases]
    return [alias for alias in aliases if alias.startswith(incomplete)]


def quantize_option(default: str) -> Callable[[Command], Command]:
    """`--quantize`; `default` says in words what holds without it."""
    return click.option(
        "--quantize",
        type=click.Choice(["nf4", "int8", "none"]),
        help=f"How to hold the base in memory. Default: {default}.",
    )
