"""`--config FILE`: the options of a command from a YAML file, and `--config-schema`, what may stand in one.

Keys are the options' names, with - or _; what `--set` takes stands under `set`. What is said on the command line goes before
the file, of `--set` name by name. Does not run anything.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from adapthub.adapters.errors import InvalidSettings
from adapthub.adapters.suggest import did_you_mean
from adapthub.cli.options import Command, complete_files
from adapthub.cli.output import show_json
from adapthub.cli.set_option import SET_BY_FILE
from adapthub.cli.vocabulary import SET

_SET = "more"
_OURS = ("config", "config_schema", "as_json", "help", "serve")  # the last asks another question (cli.plan)
_TYPES = {
    "integer": "integer",
    "integer range": "integer",
    "float": "number",
    "float range": "number",
    "boolean": "boolean",
}


def config_options(command: Command) -> Command:
    """Both options."""
    command = click.option(
        "--config-schema",
        is_flag=True,
        is_eager=True,
        expose_value=False,
        callback=_show_schema,
        help="Print the JSON schema of such files, and end.",
    )(command)
    return click.option(
        "--config",
        is_eager=True,
        expose_value=False,
        callback=_read,
        metavar="FILE",
        shell_complete=complete_files,
        help="A YAML file with any of these options.",
    )(command)


def _read(context: click.Context, parameter: click.Parameter, value: str | None) -> None:
    if value is not None:
        options = _options(context)
        context.default_map = {
            _known(name, options, value).name: _value(_known(name, options, value), written, value)
            for name, written in _mapping(Path(value)).items()
        }
        context.meta[SET_BY_FILE] = tuple(context.default_map.get(_SET, ()))


def _show_schema(context: click.Context, parameter: click.Parameter, value: bool) -> None:
    if value:
        show_json(schema(context))
        context.exit()


def schema(context: click.Context) -> dict[str, Any]:
    """JSON schema (2020-12) of a command's configuration file."""
    properties: dict[str, Any] = {}
    for name, option in _options(context).items():
        if option.multiple:
            kind = "object" if option.name == _SET else "array"
            properties[name] = {"type": kind, "description": option.help}
            continue
        properties[name] = {"type": _kind(option), "description": option.help}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "properties": properties,
        "additionalProperties": False,
    }


def _kind(option: click.Option) -> str:
    """Of JSON, of an option with one value."""
    if option.is_flag and option.flag_value is True:
        return "boolean"
    return _TYPES.get(option.type.name, "string")


def _options(context: click.Context) -> dict[str, click.Option]:
    """By the names that a file uses: the longest of an option's, without dashes."""
    found = [parameter for parameter in context.command.params if isinstance(parameter, click.Option)]
    return {
        max(option.opts, key=len).lstrip("-").replace("-", "_"): option
        for option in found
        if option.name not in _OURS
    }


def _mapping(path: Path) -> Mapping[Any, Any]:
    import yaml

    try:
        written = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InvalidSettings(f"{path} cannot be read: {' '.join(str(error).split())}") from error
    if not isinstance(written, dict):
        raise InvalidSettings(
            f"{path} is no mapping of options to values", hint="Write lines such as task: ner."
        )
    return written


def _known(name: object, options: Mapping[str, click.Option], path: str) -> click.Option:
    plain = str(name).replace("-", "_")
    if plain in SET and "set" in options:
        raise InvalidSettings(
            f"{path}: {plain!r} is no option, but a setting",
            hint="Write it below a line set: as what --set takes.",
        )
    if plain not in options:
        near = did_you_mean(plain, options) or f"There is: {', '.join(options)}."
        raise InvalidSettings(f"{path}: there is no option {name}", hint=near)
    return options[plain]


def _value(option: click.Option, written: Any, path: str) -> Any:
    if not option.multiple:
        if isinstance(written, (dict, list)):
            raise InvalidSettings(f"{path}: {option.name} is one value; {written!r} is not")
        # click would take 3.7 for 3, and true for 1 or a name.
        if isinstance(written, bool) and not option.is_flag:
            raise InvalidSettings(
                f"{path}: {option.name} is no switch, and takes a value; {written!r} is none"
            )
        if isinstance(written, float) and _kind(option) == "integer" and not written.is_integer():
            raise InvalidSettings(f"{path}: {option.name} is a whole number; {written!r} is not")
        return written
    if option.name != _SET:
        return written if isinstance(written, list) else [written]
    written = {} if written is None else written  # all of it is commented out, perhaps
    if not isinstance(written, dict):
        raise InvalidSettings(f"{path}: set is a mapping of names to values; {written!r} is not")
    return [f"{name}={_text(value)}" for name, value in written.items()]


def _text(value: Any) -> str:
    """As --set reads it back."""
    import json

    return value if isinstance(value, str) else json.dumps(value, default=str)  # YAML has dates, too
