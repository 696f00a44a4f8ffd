"""`adapt doctor`: prints what `adapters.doctor` found. Decides nothing about it."""

from __future__ import annotations

import click

from adapthub.cli.output import json_option, show_json, show_table


@click.command()
@json_option
def doctor(as_json: bool) -> None:
    """Show what works on this machine, and what is missing.

    Versions, devices, memory, whether GPU kernels run, optional pieces, quantisations. These are tried, not guessed: each
    quantisation on a small layer, the least of the kernels.

    \b
    Example:
      $ adapt doctor
      $ adapt doctor --json
    """
    from dataclasses import asdict

    from adapthub.adapters.doctor import examine

    rows = [asdict(row) for row in examine()]
    if as_json:
        show_json(rows)
    else:
        show_table(rows, list(rows[0]), whole=True)
