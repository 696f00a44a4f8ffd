"""`adapt hub gc | check | backup | restore`: a hub's upkeep, while it is served or not. The hub does all of it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from adapthub.cli.options import data_options
from adapthub.cli.output import announce, json_option, show_json, show_record
from adapthub.cli.tenant_options import duration

if TYPE_CHECKING:
    from adapthub.hub.store import Store

Command = TypeVar("Command", bound=Callable[..., Any])


def place_options(command: Command) -> Command:
    """`--data`, `--database`, `--blobs`: where a hub is."""
    blobs = click.option(
        "--blobs", metavar="URL", help="s3://bucket/prefix. Default: blobs/ in the data folder."
    )
    return data_options(blobs(command))


@click.command()
@click.option("--dry-run", is_flag=True, help="Say what would be deleted, and delete nothing.")
@click.option(
    "--grace",
    type=duration,
    default="1d",
    show_default=True,
    metavar="TIME",
    help="How long an upload may wait for its commit.",
)
@place_options
@json_option
def gc(
    dry_run: bool, grace: timedelta, data: Path | None, database: str | None, blobs: str | None, as_json: bool
) -> None:
    """Delete the bytes that no commit names any more, also while the hub is served.

    \b
    Example:
      $ adapt hub gc --dry-run
      $ adapt hub gc --grace 2h
    """
    from dataclasses import asdict

    from adapthub.hub.collecting import collect

    found = collect(_store(data, database, blobs), grace=grace, dry_run=dry_run)
    if as_json:
        show_json({**asdict(found), "dry_run": dry_run})
    else:
        verb = "Would delete" if dry_run else "Deleted"
        click.echo(f"{verb} {found.blobs} blobs of {found.bytes:,} bytes.")


@click.command()
@click.option("--quick", is_flag=True, help="Look at the sizes of blobs and not at their bytes.")
@place_options
@json_option
def check(quick: bool, data: Path | None, database: str | None, blobs: str | None, as_json: bool) -> None:
    """Check that a hub is whole: every blob, every version, every name. Exits with 1 where something is wrong.

    \b
    Example:
      $ adapt hub check
      $ adapt hub check --quick --json
    """
    from dataclasses import asdict

    from adapthub.hub.checking import check as check_hub

    report = check_hub(_store(data, database, blobs), quick=quick)
    record = asdict(report)
    problems = record.pop("problems")
    if as_json:
        show_json({**record, "problems": problems})
    else:
        show_record(record)
        for problem in problems:
            click.echo(problem)
    if problems:
        announce(f"{len(problems)} things are wrong with this hub.")
        raise SystemExit(1)


@click.command()
@click.argument("target", type=click.Path(path_type=Path))
@place_options
@json_option
def backup(target: Path, data: Path | None, database: str | None, blobs: str | None, as_json: bool) -> None:
    """Save a hub into the folder TARGET, or the file TARGET.tar, also while it is served.

    A folder that has a backup already gets only the blobs that are new. Signing keys and the folder's secret are
    not in it.

    \b
    Example:
      $ adapt hub backup /backups/hub
      $ adapt hub backup hub.tar --database postgresql://hub@db/hub --blobs s3://adapters
    """
    from adapthub.hub.backups import backup as save

    _show_saved("Saved", save(_store(data, database, blobs), target), as_json)


@click.command()
@click.argument("source", type=click.Path(path_type=Path, exists=True))
@place_options
@json_option
def restore(source: Path, data: Path | None, database: str | None, blobs: str | None, as_json: bool) -> None:
    """Put the backup SOURCE into an empty hub. It may go from SQLite to PostgreSQL and from a folder to S3.

    \b
    Example:
      $ adapt hub restore /backups/hub --data /srv/hub
    """
    from adapthub.hub.backups import restore as put_back

    _show_saved("Restored", put_back(_store(data, database, blobs), source), as_json)


def _show_saved(verb: str, saved: Any, as_json: bool) -> None:
    if as_json:
        show_json({"repos": saved.repos, "blobs": saved.blobs, "bytes": saved.bytes})
    else:
        click.echo(f"{verb} {saved.repos} repositories: {saved.blobs} blobs of {saved.bytes:,} bytes.")


def _store(data: Path | None, database: str | None, blobs: str | None) -> Store:
    from adapthub.adapters.home import home
    from adapthub.hub.store import Store

    return Store.open(data or home() / "hub", database=database, blobs=blobs)
