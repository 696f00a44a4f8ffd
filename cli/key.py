"""`adapt key`: keys that sign adapters, and keys that are trusted. `hub/signing_keys` does all of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from adapthub.cli.output import json_option, show_json, show_record, show_table

if TYPE_CHECKING:
    from adapthub.hub.signing_keys import PublicKey


@click.group()
def key() -> None:
    """Make keys that sign adapters, and say which keys are trusted.

    \b
    Example:
      $ adapt key list
    """


@key.command()
@click.argument("name")
@json_option
def create(name: str, as_json: bool) -> None:
    """Make a key NAME of your own, and trust it.

    The private half stays in AdaptHub's home, readable by you alone. Give the public file that is printed to whoever is
    to verify what you sign. A key that openssl made (an elliptic curve, in PEM) does as well: adapt sign --key FILE.

    \b
    Example:
      $ adapt key create releases
    """
    from adapthub.hub.signing_keys import create_key, trusted_file

    record = {**_record(create_key(name)), "public": str(trusted_file(name))}
    if as_json:
        show_json(record)
    else:
        show_record(record)


@key.command()
@click.argument("name")
@click.argument("file", type=click.Path(path_type=Path))
@json_option
def trust(name: str, file: Path, as_json: bool) -> None:
    """Believe signatures by the public key in FILE, from now on called NAME.

    \b
    Example:
      $ adapt key trust partner partner.pub
    """
    from adapthub.hub import signing_keys

    _say(signing_keys.trust(name, file), as_json, "Trusted: ")


@key.command()
@click.argument("name")
@json_option
def untrust(name: str, as_json: bool) -> None:
    """Believe signatures by the key NAME no longer.

    \b
    Example:
      $ adapt key untrust partner
    """
    from adapthub.hub import signing_keys

    _say(signing_keys.untrust(name), as_json, "No longer trusted: ")


@key.command("list")
@json_option
def list_keys(as_json: bool) -> None:
    """List the keys that are trusted.

    \b
    Example:
      $ adapt key list --json
    """
    from adapthub.hub.signing_keys import trusted_keys

    records = [_record(found) for found in trusted_keys()]
    if as_json:
        show_json(records)
    else:
        show_table(
            records, ("name", "id"), empty="No key is trusted yet: adapt key create NAME, or adapt key trust."
        )


def _record(found: PublicKey) -> dict[str, Any]:
    return {"name": found.name, "id": found.id}


def _say(found: PublicKey, as_json: bool, what: str) -> None:
    if as_json:
        show_json(_record(found))
    else:
        click.echo(f"{what}{found.name}  {found.id[:12]}")
