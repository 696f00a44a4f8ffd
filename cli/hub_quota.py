"""`adapt hub quota`: how much a namespace may hold. The hub does all of it."""

from __future__ import annotations

import re
from pathlib import Path

import click

from adapthub.cli.hub_tokens import hub_database
from adapthub.cli.options import data_options
from adapthub.cli.output import json_option, show_json, show_table

_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_SIZE = re.compile(r"(\d{1,15})([KMGT]?)(?:i?B)?", re.IGNORECASE | re.ASCII)


@click.group()
def quota() -> None:
    """How many bytes the repositories of a namespace may hold together.

    \b
    Example:
      $ adapt hub quota set acme 50G
      $ adapt hub quota list
    """


@quota.command("set")
@click.argument("namespace")
@click.argument("size", metavar="SIZE")
@data_options
def set_(namespace: str, size: str, data: Path | None, database: str | None) -> None:
    """Let NAMESPACE hold at most SIZE: bytes, or 500M, 50G; `none` takes the quota away.

    What it holds already stays; uploads that would go beyond are refused before they begin.

    \b
    Example:
      $ adapt hub quota set acme 50G
      $ adapt hub quota set acme none
    """
    from adapthub.hub.quotas import set_quota

    most = None if size == "none" else _bytes(size)
    with hub_database(data, database).writing() as session:
        set_quota(session, namespace, most)
    words = "what the disk holds" if most is None else f"{most:,} bytes"
    click.echo(f"{namespace}/ may hold {words}.")


@quota.command("list")
@data_options
@json_option
def list_(data: Path | None, database: str | None, as_json: bool) -> None:
    """List the namespaces that have a quota, and what they hold.

    \b
    Example:
      $ adapt hub quota list
    """
    from adapthub.hub.quotas import list_quotas

    with hub_database(data, database).reading() as session:
        records = [
            {"namespace": name, "used": used, "quota": most} for name, used, most in list_quotas(session)
        ]
    if as_json:
        show_json(records)
    else:
        show_table(
            records, ("namespace", "used", "quota"), empty="No quotas yet: adapt hub quota set NAME 50G."
        )


def _bytes(size: str) -> int:
    match = _SIZE.fullmatch(size)
    if match is None:
        raise click.BadParameter(f"{size!r} is no size. Write bytes, 500M, 50G or none.", param_hint="SIZE")
    return int(match[1]) * _UNITS[match[2].upper()]
