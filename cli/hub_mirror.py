"""`adapt hub mirror`: versions of an adapter copied from one hub to another. `hub/mirroring` copies."""

from __future__ import annotations

import click

from adapthub.cli.options import complete_hubs, complete_names
from adapthub.cli.output import announce, json_option, show_json
from adapthub.cli.records import version_line
from adapthub.hub.documents import version_record


@click.command()
@click.argument("ref", shell_complete=complete_names)
@click.option("--to", metavar="HUB", shell_complete=complete_hubs, help="Default: $ADAPTHUB_HUB, else local.")
@click.option("--as", "name", metavar="NAME", help="Another name there. Default: the same.")
@json_option
def mirror(ref: str, to: str | None, name: str | None, as_json: bool) -> None:
    """Copy the adapter REF from its hub to another, each version verified.

    REF names its hub: hf::namespace/name, or one of adapt login. With a revision that version is copied, without one all of
    them, oldest first. What is there already is left as it is, so a copy that was cut off is gone on with. Each hub gets its
    own token only.

    \b
    Example:
      $ adapt hub mirror hf::acme/ner
      $ adapt hub mirror acme::team/ner@prod --to http://127.0.0.1:7860 --as mirrored/ner
    """
    from adapthub.adapters.errors import InvalidReference
    from adapthub.cli.chosen_hub import open_chosen
    from adapthub.hub.mirroring import mirror as copy
    from adapthub.hub.reference import Reference

    reference = Reference.parse(ref)
    if reference.hub is None:
        raise InvalidReference(f"{ref} does not say which hub it is copied from", hint=f"Write hf::{ref}.")
    hubs = open_chosen(to)
    records = []
    for version in copy(hubs, reference, hubs, name or reference.full_name):
        records.append(record := {**version_record(version), "repeated": version.repeated})
        if not as_json:
            announce(("Already there: " if version.repeated else "Copied ") + version_line(record))
    if as_json:
        show_json(records)
    else:
        click.echo(
            f"{len(records)} versions of {reference.full_name}, {sum(not r['repeated'] for r in records)} new."
        )
