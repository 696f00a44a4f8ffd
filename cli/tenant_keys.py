"""`adapt tenant key`: a tenant's keys. The store does all of it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from adapthub.cli.output import announce, json_option, show_json, show_table
from adapthub.cli.tenant_options import (
    complete_keys,
    complete_tenants,
    duration,
    for_people,
    key_record,
)

if TYPE_CHECKING:
    from datetime import timedelta

    from adapthub.runtime.tenants.tenant import NewKey


@click.group()
def key() -> None:
    """Add, list, rotate and revoke a tenant's keys.

    \b
    Example:
      $ adapt tenant key list acme
    """


@key.command("add")
@click.argument("name", shell_complete=complete_tenants)
@click.option(
    "--expires", type=duration, metavar="TIME", help="How long it works, such as 90d. Default: for ever."
)
@json_option
def add_key(name: str, expires: timedelta | None, as_json: bool) -> None:
    """Give the tenant NAME one more key, and print it.

    This is the only time that it is shown.

    \b
    Example:
      $ adapt tenant key add beta --expires 90d
    """
    from adapthub.runtime.tenants.store import TenantStore

    _show_new(TenantStore.open().add_key(name, lifetime=expires), as_json)


@key.command("list")
@click.argument("name", shell_complete=complete_tenants)
@json_option
def list_keys(name: str, as_json: bool) -> None:
    """List the keys of the tenant NAME by their prefixes.

    Those that no longer work are listed too.

    \b
    Example:
      $ adapt tenant key list acme --json
    """
    from adapthub.runtime.tenants.store import TenantStore

    records = [key_record(key, datetime.now(UTC)) for key in TenantStore.open().keys(name)]
    if as_json:
        show_json(records)
    else:
        rows = [for_people(record) for record in records]
        show_table(rows, ("prefix", "state", "created", "expires"), empty=f"{name} has no keys.")


@key.command()
@click.argument("name", shell_complete=complete_tenants)
@click.argument("keys", metavar="KEY...", nargs=-1, shell_complete=complete_keys)
@click.option("--all", "everything", is_flag=True, help="Every key that the tenant has.")
@json_option
def revoke(name: str, keys: tuple[str, ...], everything: bool, as_json: bool) -> None:
    """End keys of the tenant NAME at once.

    Each KEY is a prefix, such as ah_3kd8f2ab.

    \b
    Example:
      $ adapt tenant key revoke beta --all
    """
    from adapthub.runtime.tenants.store import TenantStore

    if bool(keys) == everything:
        raise click.UsageError("Name the keys to revoke, or give --all.", click.get_current_context())
    store = TenantStore.open()
    named = [key.prefix for key in store.keys(name)] if everything else keys
    records = [key_record(store.revoke(name, key), datetime.now(UTC)) for key in named]
    if as_json:
        show_json(records)
    else:
        rows = [for_people(record) for record in records]
        show_table(rows, ("prefix", "state", "revoked"), empty=f"{name} has no keys.")


@key.command()
@click.argument("name", shell_complete=complete_tenants)
@click.argument("old", metavar="[KEY]", required=False, shell_complete=complete_keys)
@click.option(
    "--grace",
    type=duration,
    metavar="TIME",
    default="24h",
    help="How long the old key still works. Default: 24h.",
)
@click.option(
    "--expires", type=duration, metavar="TIME", help="How long the new one works. Default: as the old one."
)
@json_option
def rotate(name: str, old: str | None, grace: timedelta, expires: timedelta | None, as_json: bool) -> None:
    """Print a new key for the tenant NAME in place of KEY.

    KEY, a prefix such as ah_3kd8f2ab, ends after a grace period. It may be left out where only one key works.

    \b
    Example:
      $ adapt tenant key rotate acme --grace 1h
    """
    from adapthub.runtime.tenants.store import TenantStore

    _show_new(TenantStore.open().rotate(name, old, grace=grace, lifetime=expires), as_json)


def _show_new(new: NewKey, as_json: bool) -> None:
    if as_json:
        show_json({**key_record(new.key, datetime.now(UTC)), "key": new.text})
    else:
        announce(f"A new key of {new.key.tenant}; it is not shown again.")
        click.echo(new.text)
