"""`adapt tenant`: who may use the server, which adapters, and how much. The store does all of it.

A server that runs with tenants sees each change within a second or two.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from adapthub.cli.output import announce, json_option, show_json, show_record, show_table
from adapthub.cli.tenant_keys import key
from adapthub.cli.tenant_options import (
    complete_tenants,
    duration,
    for_people,
    key_record,
    limit_or_none,
    tenant_record,
)
from adapthub.cli.tenant_usage import usage

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import timedelta

    from adapthub.runtime.tenants.tenant import Tenant

_COLUMNS = (
    "name",
    "allow",
    "weight",
    "requests_per_minute",
    "tokens_per_minute",
    "tokens_per_month",
    "used_this_month",
    "admin",
)


@click.group()
def tenant() -> None:
    """Keys, access, limits and usage of those who share a server.

    \b
    Example:
      $ adapt tenant list
    """


tenant.add_command(key)
tenant.add_command(usage)


@tenant.command()
@click.argument("name")
@click.option(
    "--allow",
    "patterns",
    multiple=True,
    metavar="PATTERN",
    help="Adapters that it may use, such as 'acme/*'; '*' is all. May be repeated.",
)
@click.option("--admin", is_flag=True, help="It may load, unload and promote adapters.")
@click.option("--weight", type=float, default=1.0, help="Its share of the engine. Default: 1.")
@click.option("--requests-per-minute", type=int, help="Default: no limit.")
@click.option("--tokens-per-minute", type=int, help="Of prompts and answers. Default: no limit.")
@click.option("--tokens-per-month", type=int, help="A calendar month in UTC. Default: no limit.")
@click.option(
    "--expires", type=duration, metavar="TIME", help="How long its key works, such as 90d. Default: for ever."
)
@json_option
def add(
    name: str, patterns: tuple[str, ...], expires: timedelta | None, as_json: bool, **settings: Any
) -> None:
    """Add the tenant NAME, and print its key.

    This is the only time that the key is shown: only a hash of it is kept. It goes to stdout alone.

    \b
    Example:
      $ adapt tenant add acme --allow 'acme/*' --tokens-per-month 1000000
      $ adapt tenant add beta --allow 'beta/*' --allow acme/tone --expires 90d --json
    """
    from adapthub.runtime.tenants.store import TenantStore
    from adapthub.runtime.tenants.tenant import Tenant

    now = datetime.now(UTC)
    made = Tenant(name, patterns, now, **settings)
    store = TenantStore.open()
    first = not store.tenants()
    new = store.add(made, lifetime=expires)
    if as_json:
        ends = key_record(new.key, now)["expires"]
        show_json({**tenant_record(made, 0), "prefix": new.key.prefix, "expires": ends, "key": new.text})
    else:
        announce(f"Added {name}. This is its key; it is not shown again.")
        click.echo(new.text)
    if first:
        announce(
            "It is the first tenant: a server that runs without tenants asks for keys once it is restarted."
        )


@tenant.command("list")
@json_option
def list_tenants(as_json: bool) -> None:
    """List the tenants, their limits and what they used this month.

    \b
    Example:
      $ adapt tenant list
      $ adapt tenant list --json
    """
    from adapthub.runtime.tenants.store import TenantStore

    used = _used()
    records = [tenant_record(tenant, used.get(tenant.name, 0)) for tenant in TenantStore.open().tenants()]
    if as_json:
        show_json(records)
    else:
        show_table(records, _COLUMNS, empty="No tenants yet: adapt tenant add NAME --allow 'namespace/*'.")


@tenant.command()
@click.argument("name", shell_complete=complete_tenants)
@json_option
def show(name: str, as_json: bool) -> None:
    """Show everything about the tenant NAME, keys included.

    \b
    Example:
      $ adapt tenant show acme
    """
    from adapthub.runtime.tenants.store import TenantStore

    store = TenantStore.open()
    record = tenant_record(store.get(name), _used().get(name, 0))
    keys = [key_record(key, datetime.now(UTC)) for key in store.keys(name)]
    if as_json:
        show_json({**record, "keys": keys})
        return
    show_record(for_people(record))
    click.echo()
    show_table([for_people(key) for key in keys], ("prefix", "state", "created", "expires"), empty="No keys.")


@tenant.command()
@click.argument("name", shell_complete=complete_tenants)
@click.argument("patterns", metavar="PATTERN...", nargs=-1, required=True)
@click.option("--admin/--no-admin", default=None, help="Also whether it may load, unload and promote.")
@json_option
def allow(name: str, patterns: tuple[str, ...], admin: bool | None, as_json: bool) -> None:
    """Say which adapters the tenant NAME may use.

    Those that match a PATTERN, and no others: what it was allowed before it may not use any more.

    \b
    Example:
      $ adapt tenant allow acme 'acme/*' shared/tone
    """
    _change(name, {"allow": patterns} | ({} if admin is None else {"admin": admin}), as_json)


@tenant.command()
@click.argument("name", shell_complete=complete_tenants)
@click.option("--weight", type=float, help="Its share of the engine.")
@click.option(
    "--requests-per-minute",
    type=limit_or_none,
    metavar="N|none",
    help="Changes at once; none takes a limit away.",
)
@click.option("--tokens-per-minute", type=limit_or_none, metavar="N|none", help="Of prompts and answers.")
@click.option("--tokens-per-month", type=limit_or_none, metavar="N|none", help="A calendar month in UTC.")
@json_option
def limit(name: str, as_json: bool, **limits: float | str | None) -> None:
    """Change limits of the tenant NAME.

    Those that are given change, and the others stay. What was used this month already counts.

    \b
    Example:
      $ adapt tenant limit acme --requests-per-minute 600 --tokens-per-minute none --weight 2
    """
    changes = {
        field: None if value == "none" else value for field, value in limits.items() if value is not None
    }
    if not changes:
        raise click.UsageError("Name at least one limit to change.", click.get_current_context())
    _change(name, changes, as_json)


@tenant.command()
@click.argument("name", shell_complete=complete_tenants)
@json_option
def remove(name: str, as_json: bool) -> None:
    """Remove the tenant NAME and its keys.

    What it used stays in the ledger, and counts when a tenant of that name is added again.

    \b
    Example:
      $ adapt tenant remove beta
    """
    from adapthub.runtime.tenants.store import TenantStore

    TenantStore.open().remove(name)
    if as_json:
        show_json({"removed": name})
    else:
        click.echo(f"Removed {name}: its keys no longer work. Its usage stays in the ledger.")


def _change(name: str, changes: Mapping[str, Any], as_json: bool) -> None:
    from adapthub.runtime.tenants.store import TenantStore

    changed: Tenant = TenantStore.open().change(name, **changes)
    record = tenant_record(changed, _used().get(name, 0))
    if as_json:
        show_json(record)
    else:
        show_record(for_people(record))


def _used() -> Mapping[str, int]:
    """Each tenant's tokens of this month."""
    from adapthub.hub.storage.database import Database
    from adapthub.runtime.tenants.accounts import month_of
    from adapthub.runtime.tenants.tables import SCHEMA, default_path
    from adapthub.runtime.tenants.usage import month_totals

    return month_totals(Database(default_path(), SCHEMA), month_of(datetime.now(UTC)))
