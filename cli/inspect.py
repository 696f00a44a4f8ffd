"""Samples as the loss sees them: what is supervised in colour, what is masked dimmed. For `adapt plan` and `adapt train`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from adapthub.cli.output import coloured, show_json
from adapthub.cli.text import clean, one_line

if TYPE_CHECKING:
    from adapthub.recipes.recipe import Preview

_MASK = "loss"  # the column of recipes that learn tokens themselves; others name what is learnt of a token

inspect_option = click.option(
    "--inspect", is_flag=True, help="Show three samples with what is learnt in colour; train nothing."
)


def show_samples(samples: Sequence[Preview], *, as_json: bool) -> None:
    """Print samples: what is learnt in colour or, where there is none, in brackets, with its label if it has one."""
    if as_json:
        show_json([record(sample) for sample in samples])
        return
    for number, sample in enumerate(samples):
        learnt = supervised(sample)
        click.echo(f"{chr(10) if number else ''}{one_line(sample.source)}: {one_line(sample.text)}")
        click.echo(" ".join(map(_token, sample.rows, learnt, [sample.columns] * len(learnt))))
        click.echo(_dim(f"{sum(learnt)} of {len(learnt)} are learnt"))


def record(sample: Preview) -> dict[str, Any]:
    """A sample with stable keys; `supervised` says of each of its rows whether the loss sees it."""
    return {**asdict(sample), "supervised": supervised(sample)}


def supervised(sample: Preview) -> list[bool]:
    """A row is learnt where its last cell says what."""
    return [bool(row[-1]) for row in sample.rows]


def _token(row: Sequence[str], learnt: bool, columns: Sequence[str]) -> str:
    text = clean(row[0])
    if not learnt:
        return _dim(text)
    if columns[-1] != _MASK:
        text = f"{text}/{clean(row[-1])}"
    return click.style(text, fg="green", bold=True) if coloured() else f"[{text}]"


def _dim(text: str) -> str:
    return click.style(text, dim=True) if coloured() else text
