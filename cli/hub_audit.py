"""`adapt hub audit`: what was done to a hub. The hub's audit log does all of it."""

from __future__ import annotations

from pathlib import Path

import click

from adapthub.cli.hub_tokens import hub_database
from adapthub.cli.options import data_options
from adapthub.cli.output import json_option, show_json, show_table


@click.command()
@click.option("--repo", metavar="NAME", help="Of this namespace/name alone.")
@click.option("--actor", metavar="ACCOUNT", help="What this account did.")
@click.option("--action", help="Such as alias.moved or token.created.")
@click.option("--limit", type=click.IntRange(1), default=50, show_default=True, help="So many of the newest.")
@click.option("--verify", is_flag=True, help="Compute the whole chain again instead of listing it.")
@click.option("--expect", metavar="HASH", help="With --verify: the chain must still have this hash.")
@data_options
@json_option
def audit(
    repo: str | None,
    actor: str | None,
    action: str | None,
    limit: int,
    verify: bool,
    expect: str | None,
    data: Path | None,
    database: str | None,
    as_json: bool,
) -> None:
    """Show what was done to the hub, by whom, newest first.

    Every entry holds the hash of the one before it. --verify names the first entry that somebody changed, and prints the
    hash of the last: keep it elsewhere, and give it to --expect the next time, for then a cut-off end shows too.

    \b
    Example:
      $ adapt hub audit --action alias.moved
      $ adapt hub audit --verify
    """
    from adapthub.hub import audit as log
    from adapthub.hub.documents import audit_record

    with hub_database(data, database).reading() as session:
        if verify:
            chain = log.verify(session, expect=expect)
            if as_json:
                show_json({"entries": chain.entries, "head": chain.head})
            else:
                click.echo(f"All {chain.entries} entries are as they were written. The last is {chain.head}.")
            return
        records = [
            {**audit_record(entry), "time": entry.time.isoformat(timespec="seconds")}
            for entry in log.entries(session, repo=repo, actor=actor, action=action, limit=limit)
        ]
    if as_json:
        show_json(records)
    else:
        columns = ("number", "time", "actor", "action", "repo", "detail")
        show_table(records, columns, empty="Nothing was recorded yet.")
