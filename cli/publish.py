"""`adapt push`, `pull`, `promote`, `rollback`: move adapters and aliases. The hub does all of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from adapthub.cli.options import complete_aliases, complete_names, hub_option
from adapthub.cli.output import json_option, show_json
from adapthub.cli.records import version_line
from adapthub.hub.documents import version_record

if TYPE_CHECKING:
    from adapthub.hub.registry import Version


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.argument("name", shell_complete=complete_names)
@click.option("--message", "-m", default="", help="What changed, in a line.")
@click.option("--alias", help="Also point this alias at the new version.")
@hub_option
@json_option
def push(folder: Path, name: str, message: str, alias: str | None, hub: str | None, as_json: bool) -> None:
    """Publish the adapter in FOLDER as the next version of NAME.

    NAME is namespace/name. Any PEFT folder of safetensors is welcome. Versions never change; the same bytes
    make no new version. A signature in the folder (adapt sign) comes along.

    \b
    Example:
      $ adapt push runs/ner/adapter acme/ner --message "a higher rank" --alias prod
    """
    from adapthub.cli.chosen_hub import open_chosen
    from adapthub.cli.find import read_adapter

    artifact = read_adapter(folder)
    version = open_chosen(hub).push(artifact, name, message=message, alias=alias)
    _say(version, as_json, "Already there: " if version.repeated else "Published ")


@click.command()
@click.argument("ref", shell_complete=complete_names)
@click.option("--output", type=click.Path(path_type=Path), help="Copy the files to this new folder.")
@click.option("--signed", is_flag=True, help="Refuse it unless a key of `adapt key list` signed it.")
@hub_option
@json_option
def pull(ref: str, output: Path | None, signed: bool, hub: str | None, as_json: bool) -> None:
    """Bring the adapter REF here, verified, and print its folder.

    REF is namespace/name, with @v3, @prod or @0123abc for a version, an alias or a digest; hf::namespace/name is of
    the hub hf. The folder is a
    cache entry that plain PEFT loads too; --output makes a copy of your own.

    \b
    Example:
      $ adapt pull acme/ner
      $ adapt pull acme/ner@v1 --output my-ner
      $ adapt pull hf::acme/ner
    """
    from adapthub.cli.chosen_hub import open_chosen

    artifact = open_chosen(hub).pull(ref)
    if signed:
        from adapthub.cli.sign import signed_by

        signed_by(artifact, ref)
    folder = artifact.path
    if output is not None:
        from adapthub.adapters.admission import SIGNATURE
        from adapthub.adapters.files import new_directory

        with new_directory(output) as aside:
            for name in artifact.files:
                (aside / name).write_bytes((artifact.path / name).read_bytes())
            if artifact.signature is not None:
                (aside / SIGNATURE).write_bytes(artifact.signature)
        folder = output
    if as_json:
        show_json({"reference": ref, "digest": artifact.digest, "size": artifact.size, "path": str(folder)})
    else:
        click.echo(str(folder))


@click.command()
@click.argument("ref", shell_complete=complete_names)
@click.argument("alias", shell_complete=complete_aliases)
@hub_option
@json_option
def promote(ref: str, alias: str, hub: str | None, as_json: bool) -> None:
    """Point ALIAS at the version that REF means now.

    \b
    Example:
      $ adapt promote acme/ner@v1 prod
      $ adapt promote acme/ner@v2 prod
    """
    from adapthub.cli.chosen_hub import open_chosen

    _say(open_chosen(hub).promote(ref, alias), as_json, f"{alias} is now ")


@click.command()
@click.argument("name", shell_complete=complete_names)
@click.argument("alias", shell_complete=complete_aliases)
@hub_option
@json_option
def rollback(name: str, alias: str, hub: str | None, as_json: bool) -> None:
    """Point ALIAS of NAME back at what it meant before.

    Before the last promotion, that is; each further call goes one promotion further back.

    \b
    Example:
      $ adapt rollback acme/ner prod
    """
    from adapthub.cli.chosen_hub import open_chosen

    _say(open_chosen(hub).rollback(name, alias), as_json, f"{alias} is now ")


def _say(version: Version, as_json: bool, what: str) -> None:
    record = version_record(version)
    if as_json:
        show_json(record)
    else:
        click.echo(what + version_line(record))
