"""`adapt hub token`: who may use a hub's server. The hub's accounts do all of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from adapthub.cli.options import data_options
from adapthub.cli.output import announce, json_option, show_json, show_table
from adapthub.cli.tenant_options import duration

if TYPE_CHECKING:
    from datetime import timedelta

    from adapthub.hub.accounts import Scope, Token
    from adapthub.hub.storage.database import Database


@click.group()
def token() -> None:
    """Tokens for the hub that adapt hub serve opens.

    \b
    Example:
      $ adapt hub token list
    """


@token.command()
@click.argument("name")
@click.option(
    "--scope",
    type=click.Choice(["read", "write", "admin"]),
    default="read",
    show_default=True,
    help="What it may do; admin may do everything.",
)
@click.option(
    "--expires", type=duration, metavar="TIME", help="How long it works, such as 90d. Default: for ever."
)
@data_options
@json_option
def create(
    name: str, scope: Scope, expires: timedelta | None, data: Path | None, database: str | None, as_json: bool
) -> None:
    """Make a token for the account NAME, and print it.

    The account is made if it is new. This is the only time that the token is shown: only a hash of it is kept.
    It goes to stdout alone.

    \b
    Example:
      $ adapt hub token create ada --scope write
      $ adapt hub token create ci --scope read --expires 90d --json
    """
    from adapthub.hub.accounts import create_token

    with hub_database(data, database).writing() as session:
        made, text = create_token(session, name, scope, lifetime=expires)
    if as_json:
        show_json({**_record(made), "token": text})
    else:
        announce(f"This is {name}'s token; it is not shown again.")
        click.echo(text)


@token.command("list")
@click.argument("name", required=False)
@data_options
@json_option
def list_(name: str | None, data: Path | None, database: str | None, as_json: bool) -> None:
    """List all tokens, or those of the account NAME.

    \b
    Example:
      $ adapt hub token list
    """
    from adapthub.hub.accounts import list_tokens

    with hub_database(data, database).reading() as session:
        records = [_record(one) for one in list_tokens(session, name)]
    if as_json:
        show_json(records)
    else:
        columns = ("account", "prefix", "scope", "state", "created", "expires")
        show_table(records, columns, empty="No tokens yet: adapt hub token create NAME --scope write.")


@token.command()
@click.argument("token")
@data_options
@json_option
def revoke(token: str, data: Path | None, database: str | None, as_json: bool) -> None:
    """End a token at once, named by its prefix or by itself.

    \b
    Example:
      $ adapt hub token revoke ah_3kd8f2ab
    """
    from adapthub.hub.accounts import revoke_token

    with hub_database(data, database).writing() as session:
        record = _record(revoke_token(session, token))
    if as_json:
        show_json(record)
    else:
        click.echo(f"Revoked {record['prefix']} of {record['account']}.")


def hub_database(data: Path | None, database: str | None) -> Database:
    """The database of the hub that --data and --database name, made on first use."""
    from adapthub.adapters.home import home
    from adapthub.hub.storage.database import Database
    from adapthub.hub.storage.schema import HUB
    from adapthub.hub.store import DATABASE

    return Database((data or home() / "hub") / DATABASE if database is None else database, HUB)


def _record(token: Token) -> dict[str, Any]:
    return {
        "account": token.account,
        "prefix": token.prefix,
        "scope": token.scope,
        "state": token.state,
        "created": token.created.isoformat(),
        "expires": None if token.expires is None else token.expires.isoformat(),
    }
