"""`adapt tenant usage`: what tenants used, from the ledger. The report adds up; `output` lays out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from adapthub.cli.output import json_option, show_json, show_table
from adapthub.cli.tenant_options import complete_tenants

if TYPE_CHECKING:
    from datetime import datetime

_DAY = click.DateTime(["%Y-%m-%d"])


@click.command()
@click.argument("name", required=False, shell_complete=complete_tenants)
@click.option("--from", "first", type=_DAY, metavar="DAY", help="Since this day, such as 2026-11-01; in UTC.")
@click.option("--to", "last", type=_DAY, metavar="DAY", help="Until this day, which is included.")
@click.option(
    "--by",
    default="tenant",
    metavar="WHAT,...",
    help="Some of tenant, adapter, kind and day. Default: tenant.",
)
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV with a header.")
@json_option
def usage(
    name: str | None, first: datetime | None, last: datetime | None, by: str, as_csv: bool, as_json: bool
) -> None:
    """Add up what all tenants used, or the tenant NAME.

    Every request that was answered is in it, to the token. Cached tokens are those of prompts that were not
    computed again. An empty adapter is the base alone.

    \b
    Example:
      $ adapt tenant usage
      $ adapt tenant usage acme --from 2026-11-01 --to 2026-11-30 --by adapter,day --csv
    """
    from adapthub.hub.storage.database import Database
    from adapthub.runtime.tenants import usage as reports
    from adapthub.runtime.tenants.store import TenantStore
    from adapthub.runtime.tenants.tables import SCHEMA, default_path

    if as_csv and as_json:
        raise click.UsageError("Give --csv or --json, not both.", click.get_current_context())
    groups = [word.strip() for word in by.split(",")]
    database = Database(default_path(), SCHEMA)
    records = reports.usage_report(
        database,
        groups,
        tenant=name,
        first=None if first is None else first.date(),
        last=None if last is None else last.date(),
    )
    if name is not None and not records:
        TenantStore(database).get(name)  # one that was removed may still have usage
    columns = (*dict.fromkeys(groups), *reports.SUMS)
    if as_json:
        show_json(records)
    elif as_csv:
        click.echo(reports.as_csv(records, columns), nl=False)
    else:
        show_table(records, columns, empty="Nothing was used.")
