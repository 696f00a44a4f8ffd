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


def quantize_option(default: str) -> Callable[[Command], Command]:
    """`--quantize`; `default` says in words what holds without it."""
    return click.option(
        "--quantize",
        type=click.Choice(["nf4", "int8", "none"]),
        help=f"How to hold the base in memory. Default: {default}.",
    )
