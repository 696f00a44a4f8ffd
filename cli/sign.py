"""`adapt sign`, `adapt verify`: who vouches for an adapter. `hub/signing` does the work."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from adapthub.cli.options import complete_names, hub_option
from adapthub.cli.output import json_option, show_json

if TYPE_CHECKING:
    from adapthub.adapters.artifact import Artifact
    from adapthub.hub.signing_keys import PublicKey


@click.command()
@click.argument("adapter", shell_complete=complete_names)
@click.option("--key", "word", metavar="KEY", help="A key's name or its PEM file. Default: your only one.")
@hub_option
@json_option
def sign(adapter: str, word: str | None, hub: str | None, as_json: bool) -> None:
    """Sign ADAPTER, a folder or a name in the hub.

    The path and sha256 of every file are signed. In a folder the signature is the file model.sig, which push takes along;
    the adapter's digest stays as it is, and so does the version of a name. A signature that is there already is replaced.

    \b
    Example:
      $ adapt sign runs/ner/adapter --key releases
      $ adapt sign acme/ner@v1 --key releases
    """
    from adapthub.adapters.admission import SIGNATURE
    from adapthub.adapters.files import write_bytes
    from adapthub.cli.chosen_hub import open_chosen
    from adapthub.cli.find import find_adapter
    from adapthub.hub import signing, signing_keys

    chosen = open_chosen(hub)
    artifact = find_adapter(adapter, chosen)
    key = signing_keys.private_key(word)
    bundle = signing.sign(artifact.sha256s, key)
    if Path(adapter).is_dir():
        write_bytes(artifact.path / SIGNATURE, bundle)
    else:
        chosen.attach_signature(adapter, bundle)
    key_id = signing_keys.PublicKey.of("", key.public_key()).id
    if as_json:
        show_json({"adapter": adapter, "digest": artifact.digest, "key": key_id})
    else:
        click.echo(f"Signed {adapter}  {artifact.digest[:19]}  with the key {key_id[:12]}")


@click.command()
@click.argument("adapter", shell_complete=complete_names)
@click.option(
    "--key",
    "words",
    metavar="KEY",
    multiple=True,
    help="Believe this key alone, a name or a PEM file. Repeatable.",
)
@hub_option
@json_option
def verify(adapter: str, words: tuple[str, ...], hub: str | None, as_json: bool) -> None:
    """Check that a trusted key signed ADAPTER.

    ADAPTER is a folder, or a name in the hub.

    Without --key every key of `adapt key list` is believed. Whatever does not fit is refused with its name: a file that
    differs, is missing or was added, a key that is not trusted, a damaged signature, or none.

    \b
    Example:
      $ adapt verify runs/ner/adapter
      $ adapt verify acme/ner@v1 --key releases --json
    """
    from adapthub.cli.chosen_hub import open_chosen
    from adapthub.cli.find import find_adapter

    artifact = find_adapter(adapter, open_chosen(hub))
    found = signed_by(artifact, adapter, words)
    if as_json:
        show_json({"adapter": adapter, "digest": artifact.digest, "key": found.id, "name": found.name})
    else:
        click.echo(f"{adapter} is signed by {found.name}  {artifact.digest[:19]}  key {found.id[:12]}")


def signed_by(artifact: Artifact, called: str, words: tuple[str, ...] = ()) -> PublicKey:
    """The key that signed `artifact`, one of `words` or else of those trusted. Raises SignatureError."""
    from adapthub.hub import signing
    from adapthub.hub.signing_keys import public_key, trusted_keys

    keys = tuple(map(public_key, words)) or trusted_keys()
    return signing.verify(artifact.signature, artifact.sha256s, keys, called)
