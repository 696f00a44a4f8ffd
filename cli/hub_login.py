"""`adapt hub login`: logins of devices that wait to be allowed. The hub does all of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from adapthub.cli.hub_tokens import hub_database
from adapthub.cli.options import data_options

if TYPE_CHECKING:
    from adapthub.hub.accounts import Scope


@click.group()
def login() -> None:
    """Logins without a token: hf auth login shows a code, and here it is allowed.

    \b
    Example:
      $ adapt hub login allow BCDF-GHJK --account ada
    """


@login.command()
@click.argument("code")
@click.option("--account", required=True, metavar="NAME", help="Whose token the device gets.")
@click.option(
    "--scope",
    type=click.Choice(["read", "write", "admin"]),
    default="read",
    show_default=True,
    help="What the token may do.",
)
@data_options
def allow(code: str, account: str, scope: Scope, data: Path | None, database: str | None) -> None:
    """Give the device that shows CODE a token.

    \b
    Example:
      $ adapt hub login allow BCDF-GHJK --account ada --scope write
    """
    from adapthub.hub.logins import allow as allow_login

    with hub_database(data, database).writing() as session:
        allow_login(session, code, account, scope)
    click.echo(f"The device gets a token of {account} that may {scope}.")


@login.command()
@click.argument("code")
@data_options
def deny(code: str, data: Path | None, database: str | None) -> None:
    """Let the device that shows CODE hear that it gets none.

    \b
    Example:
      $ adapt hub login deny BCDF-GHJK
    """
    from adapthub.hub.logins import deny as deny_login

    with hub_database(data, database).writing() as session:
        deny_login(session, code)
    click.echo("The login is denied.")
