"""`adapt hub base`: the bases that a hub holds adapters against. `hub/bases` does the work."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import click

from adapthub.cli.base import known_base
from adapthub.cli.hub_tokens import hub_database
from adapthub.cli.options import complete_models, data_options
from adapthub.cli.output import json_option, show_json, show_record, show_table

_COLUMNS = ("id", "revision", "digest", "model_type", "added")


@click.group()
def base() -> None:
    """Bases that the hub knows: what is published for one must land on it.

    \b
    Example:
      $ adapt hub base list
    """


@base.command()
@click.argument("model", shell_complete=complete_models)
@data_options
@json_option
def add(model: str, data: Path | None, database: str | None, as_json: bool) -> None:
    """Let the hub know the base MODEL, a model or the file that adapt base record wrote.

    From now on an adapter for it is refused where a tensor does not land on a module of it. The hub keeps names, shapes
    and the fingerprint, not the weights. What was published before is not looked at again.

    \b
    Example:
      $ adapt hub base add package:minilm
    """
    from adapthub.hub import bases
    from adapthub.hub.documents import base_record

    record = known_base(model)
    with hub_database(data, database).writing() as session:
        added = base_record(bases.add_base(session, record))
    if as_json:
        show_json(added)
    else:
        click.echo(f"Known now: {added['id']} {added['digest'][:19]}")


@base.command("list")
@data_options
@json_option
def list_(data: Path | None, database: str | None, as_json: bool) -> None:
    """List the bases that the hub knows.

    \b
    Example:
      $ adapt hub base list --json
    """
    from adapthub.hub import bases
    from adapthub.hub.documents import base_record

    with hub_database(data, database).reading() as session:
        records = [base_record(one) for one in bases.list_bases(session)]
    if as_json:
        show_json(records)
    else:
        shown = [{**record, "digest": record["digest"][:19]} for record in records]
        show_table(shown, _COLUMNS, empty="No bases yet: adapt hub base add MODEL.")


@base.command()
@click.argument("base")
@data_options
@json_option
def show(base: str, data: Path | None, database: str | None, as_json: bool) -> None:
    """Show the base BASE, an id or a digest; with --json, its whole record.

    \b
    Example:
      $ adapt hub base show package:minilm
    """
    from adapthub.hub import bases
    from adapthub.hub.documents import base_record

    with hub_database(data, database).reading() as session:
        listed, record = bases.show_base(session, base)
    if as_json:
        show_json({**base_record(listed), "record": record.model_dump(mode="json")})
    else:
        modules = dict(Counter(record.kinds.values()))
        sizes = {"hidden_size": record.hidden_size, "layers": record.layers, "modules": modules}
        show_record({**base_record(listed), **sizes, **record.fingerprint.to_dict()})


@base.command()
@click.argument("base")
@data_options
@json_option
def remove(base: str, data: Path | None, database: str | None, as_json: bool) -> None:
    """Let the hub forget the base BASE, an id or a digest. What was published stays.

    A base that is added again replaces what was known of it.

    \b
    Example:
      $ adapt hub base remove package:minilm
      $ adapt hub base add package:minilm
    """
    from adapthub.hub import bases
    from adapthub.hub.documents import base_record

    with hub_database(data, database).writing() as session:
        removed = base_record(bases.remove_base(session, base))
    if as_json:
        show_json(removed)
    else:
        click.echo(f"Forgotten: {removed['id']} {removed['digest'][:19]}")
