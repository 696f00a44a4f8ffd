"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
from click.shell_completion import CompletionItem

Command = TypeVar("Command", bound=Callable[..., Any])


def base_option(default: str) -> Callable[[Command], Command]:
    """`--base`; `default` says in words what holds without it."""
    return click.option(
        "--base",
        metavar="MODEL",
        shell_complete=complete_models,
        help=f"A Hub id, a folder, or package:NAME. Default: {default}.",
    )


def hub_option(command: Command) -> Command:
    """`--hub`: which hub names are looked for in. Its value is for `cli.chosen_hub.open_chosen`."""
    return click.option(
        "--hub",
        metavar="HUB",
        shell_complete=complete_hubs,
        help="A hub by address, hf, local, or a name of adapt login. Default: $ADAPTHUB_HUB, else local.",
    )(command)


def complete_hubs(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """The hubs that have names."""
    from adapthub.hub.known_hubs import LOCAL, PUBLIC, known_hubs

    return [name for name in (LOCAL, PUBLIC, *known_hubs()) if name.startswith(incomplete)]


def complete_files(
    context: click.Context, parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Whatever files the shell finds."""
    return [CompletionItem(incomplete, type="file")]


def complete_models(
    context: click.Context, parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """`package:NAME` of the catalogue's models, else files."""
    return _complete_samples("package", "model", incomplete)


def complete_data(
    context: click.Context, parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """`sample:NAME` of the catalogue's data, else files."""
    return _complete_samples("sample", "data", incomplete)


def _complete_samples(scheme: str, kind: str, incomplete: str) -> list[CompletionItem]:
    from adapthub.adapters.samples import SAMPLES

    names = [f"{scheme}:{sample.name}" for sample in SAMPLES.values() if sample.kind == kind]
    found = [CompletionItem(name) for name in names if incomplete and name.startswith(incomplete)]
    return found or [CompletionItem(incomplete, type="file")]


def complete_names(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """Names in the hub for a shell that completes them: `acme/ner`, and after @ its aliases and versions."""
    from adapthub.hub import open_hub

    name, at, _ = incomplete.partition("@")
    entries = open_hub(context.params.get("hub")).list()
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
    aliases = [
        alias
        for entry in open_hub(context.params.get("hub")).list()
        if entry.name == name
        for alias in entry.aliases
    ]
    return [alias for alias in aliases if alias.startswith(incomplete)]


device_option = click.option("--device", default="auto", show_default=True, help="cpu, cuda or cuda:1.")


def quantize_option(default: str) -> Callable[[Command], Command]:
    """`--quantize`; `default` says in words what holds without it."""
    return click.option(
        "--quantize",
        type=click.Choice(["nf4", "int8", "none"]),
        help=f"How to hold the base in memory. Default: {default}.",
    )


def room_options(command: Command) -> Command:
    """`--kv-tokens`, `--max-rows`, `--slots`: what a server holds at once."""
    for option in (
        click.option(
            "--slots",
            metavar="N",
            type=click.IntRange(min=1),
            help="Adapters that are attached at once. Default: as many as fit.",
        ),
        click.option(
            "--max-rows",
            metavar="N",
            type=click.IntRange(min=1),
            help="Requests that run at once. Default: 64.",
        ),
        click.option(
            "--kv-tokens",
            metavar="N",
            type=click.IntRange(min=1),
            help="Tokens whose keys and values are kept. Default: by free memory.",
        ),
    ):
        command = option(command)
    return command


def data_options(command: Command) -> Command:
    """`--data`, `--database`: where a hub is."""
    for option in (
        click.option(
            "--database",
            metavar="URL",
            help="postgresql://user@host/name. Default: SQLite in the data folder.",
        ),
        click.option(
            "--data",
            type=click.Path(path_type=Path, file_okay=False),
            help="The hub's folder. Default: the one that adapt push uses.",
        ),
    ):
        command = option(command)
    return command
