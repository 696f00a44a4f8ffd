"""How results are shown: JSON with stable keys, a rich table on a terminal, aligned text in a pipe.

Imports rich only where there is a terminal to show it on. Computes nothing.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

import click

from adapthub.cli.text import clean, one_line, width

Record = Mapping[str, Any]

_LONGEST_WORD = 24  # a digest or a path folds; a name does not
_BETWEEN_COLUMNS = 3

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


def show_table(
    records: Sequence[Record], columns: Sequence[str], *, empty: str = "nothing", whole: bool = False
) -> None:
    """Print the chosen `columns` of `records`, a row each; a column's key is its title.

    In a narrow terminal the last columns are left out, and that is said; with `whole` words fold instead.
    """
    if not records:
        click.echo(empty)
        return
    titles = [column.replace("_", " ") for column in columns]
    rows = [[_cell(record.get(column)) for column in columns] for record in records]
    if interactive():
        _show_rich_table(titles, rows, whole)
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


def _show_rich_table(titles: Sequence[str], rows: Sequence[Sequence[str]], whole: bool) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    shown, widths = (len(titles), [0] * len(titles)) if whole else _that_fit(titles, rows, console.width)
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for title, narrowest in zip(titles[:shown], widths, strict=False):
        table.add_column(title, overflow="fold", min_width=narrowest)
    for row in rows:
        table.add_row(*(Text(cell) for cell in row[:shown]))
    console.print(table)
    if shown < len(titles):
        announce(f"Not shown, for want of width: {', '.join(titles[shown:])}. --json has everything.")


def _that_fit(
    titles: Sequence[str], rows: Sequence[Sequence[str]], columns: int
) -> tuple[int, Sequence[int]]:
    """How many of the first columns stay readable in a terminal so wide, and how narrow each may get."""
    widths = [
        max(min(width(word), _LONGEST_WORD) for row in (titles, *rows) for word in row[index].split() or [""])
        for index in range(len(titles))
    ]
    ends = accumulate(w + _BETWEEN_COLUMNS for w in widths)
    return max(2, sum(end <= columns for end in ends)), widths
