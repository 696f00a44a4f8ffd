"""`adapt hub org`, `member`, `account`: whose a namespace is. The hub's members and accounts do all of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from adapthub.cli.hub_tokens import hub_database
from adapthub.cli.options import data_options
from adapthub.cli.output import json_option, show_json, show_table

if TYPE_CHECKING:
    from adapthub.hub.accounts import Scope
    from adapthub.hub.members import Member


@click.group()
def org() -> None:
    """Organisations: namespaces with members.

    \b
    Example:
      $ adapt hub org create acme --admin ada
    """


@org.command("create")
@click.argument("name")
@click.option("--admin", required=True, metavar="ACCOUNT", help="Its first member.")
@data_options
@json_option
def create(name: str, admin: str, data: Path | None, database: str | None, as_json: bool) -> None:
    """Make the namespace NAME an organisation's.

    Until then everybody with a token may write to a namespace that is no account's.

    \b
    Example:
      $ adapt hub token create ada --scope write
      $ adapt hub org create acme --admin ada
    """
    from adapthub.hub.members import create_organisation

    with hub_database(data, database).writing() as session:
        made = create_organisation(session, name, admin)
    _say(made, as_json, f"{admin} is admin of {name}.")


@click.group()
def member() -> None:
    """Who may read, write and administer what lies in a namespace.

    \b
    Example:
      $ adapt hub member list acme
    """


@member.command()
@click.argument("namespace")
@click.argument("account")
@click.option(
    "--role",
    type=click.Choice(["read", "write", "admin"]),
    default="read",
    show_default=True,
    help="admin also sets gates, members and webhooks.",
)
@data_options
@json_option
def add(
    namespace: str, account: str, role: Scope, data: Path | None, database: str | None, as_json: bool
) -> None:
    """Give ACCOUNT a role in NAMESPACE, in place of one that it has.

    \b
    Example:
      $ adapt hub token create grace --scope write
      $ adapt hub member add acme grace --role write
    """
    from adapthub.hub.members import set_member

    with hub_database(data, database).writing() as session:
        made = set_member(session, namespace, account, role)
    _say(made, as_json, f"{account} may {_MAY[role]} {namespace}.")


@member.command()
@click.argument("namespace")
@click.argument("account")
@data_options
@json_option
def remove(namespace: str, account: str, data: Path | None, database: str | None, as_json: bool) -> None:
    """Take ACCOUNT's role in NAMESPACE away. It holds at once, whatever tokens there are.

    \b
    Example:
      $ adapt hub member remove acme grace
    """
    from adapthub.hub.members import remove_member

    with hub_database(data, database).writing() as session:
        gone = remove_member(session, namespace, account)
    _say(gone, as_json, f"{account} is no member of {namespace} any more.")


@member.command("list")
@click.argument("namespace", required=False)
@data_options
@json_option
def list_(namespace: str | None, data: Path | None, database: str | None, as_json: bool) -> None:
    """List the members of NAMESPACE, or of all.

    \b
    Example:
      $ adapt hub member list acme --json
    """
    from adapthub.hub.members import list_members

    with hub_database(data, database).reading() as session:
        records = [_record(one) for one in list_members(session, namespace)]
    if as_json:
        show_json(records)
    else:
        show_table(records, ("namespace", "account", "role"), empty="No members: adapt hub org create NAME.")


@click.group()
def account() -> None:
    """Accounts. A token makes one; this ends one.

    \b
    Example:
      $ adapt hub account remove grace
    """


@account.command("remove")
@click.argument("name")
@data_options
@json_option
def remove_(name: str, data: Path | None, database: str | None, as_json: bool) -> None:
    """End the account NAME: its tokens, its roles and its approvals.

    What it published stays. Nobody gets its name again.

    \b
    Example:
      $ adapt hub account remove grace
    """
    from adapthub.hub.accounts import remove_account

    with hub_database(data, database).writing() as session:
        remove_account(session, name)
    if as_json:
        show_json({"account": name})
    else:
        click.echo(f"Removed {name}.")


_MAY = {"read": "read what is private in", "write": "write to", "admin": "administer"}


def _record(one: Member) -> dict[str, Any]:
    return {"namespace": one.namespace, "account": one.account, "role": one.role}


def _say(one: Member, as_json: bool, words: str) -> None:
    if as_json:
        show_json(_record(one))
    else:
        click.echo(words)
