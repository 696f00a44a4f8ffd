"""How results are shown: JSON with stable keys, a rich table on a terminal, aligned text in a pipe.

Imports rich only where there is a terminal to show it on. Computes nothing.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import click

from adapthub.cli.text import clean, one_line, width

Record = Mapping[str, Any]

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON with stable keys.")


def interactive() -> bool:
    """Whether stdout is a terminal."""
    return sys.stdout.isatty()


def coloured() -> bool:
    """Whether to colour stdout: a terminal, and nothing in NO_COLOR."""
    return interactive() and not os.environ.get("NO_COLOR")


def announce(line: str) -> None:
    """Say on stderr what is going on, apart from the results on stdout."""
    click.echo(one_line(line), err=True)


def show_json(value: object) -> None:
    """Print `value` as indented JSON."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))


def show_table(records: Sequence[Record], columns: Sequence[str], *, empty: str = "nothing") -> None:
    """Print the chosen `columns` of `records`, a row each; a column's key is its title."""
    if not records:
        click.echo(empty)
        return
    titles = [column.replace("_", " ") for column in columns]
    rows = [[_cell(record.get(column)) for column in columns] for record in records]
    if interactive():
        _show_rich_table(titles, rows)
    else:
        _show_aligned([titles, *rows])


def show_record(record: Record) -> None:
    """Print one record, a line a key; an unknown value is a dash."""
    _show_aligned([[key.replace("_", " "), _cell(value)] for key, value in record.items()])


def _cell(value: object) -> str:
    match value:
        case None:
            return "-"
        case bool():
            return "yes" if value else "no"
        case float():
            return f"{value:.4g}"
        case list() | tuple():
            return ", ".join(_cell(item) for item in value) or "-"
        case Mapping():
            return ", ".join(f"{key} {_cell(item)}" for key, item in value.items()) or "-"
    return clean(str(value))


def _show_aligned(rows: Sequence[Sequence[str]]) -> None:
    widths = [max(width(row[index]) for row in rows) for index in range(len(rows[0]))]
    for row in rows:
        cells = (cell + " " * (widest - width(cell)) for cell, widest in zip(row, widths, strict=True))
        click.echo("  ".join(cells).rstrip())


def _show_rich_table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for title in titles:
        table.add_column(title, overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    Console().print(table)
