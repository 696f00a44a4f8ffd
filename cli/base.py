"""`adapt base`: what is known of a base without its weights, and whether an adapter fits it. `adapters/base_record` and
`adapters/fit` do the work."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from adapthub.cli.options import complete_models, complete_names, hub_option
from adapthub.cli.output import announce, json_option, show_json

if TYPE_CHECKING:
    from adapthub.adapters.base_record import KnownBase


@click.group()
def base() -> None:
    """Record what a base is, and check adapters against that.

    \b
    Example:
      $ adapt base record package:minilm --output base.json
    """


@base.command()
@click.argument("adapter", shell_complete=complete_names)
@click.argument("model", shell_complete=complete_models)
@hub_option
@json_option
def fit(adapter: str, model: str, hub: str | None, as_json: bool) -> None:
    """Check that every tensor of ADAPTER lands on a module of MODEL.

    ADAPTER is a folder or a name in the hub. MODEL is a base, or the JSON file of its record. Only names and shapes are
    compared; nothing is loaded. The first tensor that does not fit is named.

    \b
    Example:
      $ adapt base fit acme/ner package:minilm
    """
    from adapthub.adapters.fit import check_fit
    from adapthub.cli.chosen_hub import open_chosen
    from adapthub.cli.find import find_adapter

    artifact = find_adapter(adapter, open_chosen(hub))
    known = known_base(model)
    check_fit(known, artifact.config, artifact.shapes)
    trained_on = artifact.base_fingerprint
    same = None if trained_on is None else trained_on == known.fingerprint
    if as_json:
        show_json({"adapter": adapter, "base": known.id, "tensors": len(artifact.shapes), "same_base": same})
        return
    click.echo(f"All {len(artifact.shapes)} tensors of {adapter} land on {known.id}.")
    if trained_on is not None and not same:
        differences = trained_on.difference(known.fingerprint, names=("when trained", "here"))
        announce(f"It was trained on another base of the same shapes: {'; '.join(differences)}.")


@base.command()
@click.argument("model", shell_complete=complete_models)
@click.option("--output", type=click.Path(path_type=Path), help="Write it to this file. Default: stdout.")
def record(model: str, output: Path | None) -> None:
    """Print the record of the base MODEL as JSON.

    It has the names and shapes of its modules and its fingerprint. With it a hub knows which adapters fit, and never sees
    the weights.

    \b
    Example:
      $ adapt base record package:minilm --output base.json
    """
    from adapthub.adapters.files import write_bytes

    document = known_base(model).to_json()
    if output is None:
        click.echo(document.decode(), nl=False)
    else:
        write_bytes(output, document)


def known_base(model: str) -> KnownBase:
    """The record of a base: read from its JSON file, or made of a model on this disk."""
    from adapthub.adapters.base_record import MAX_BYTES, KnownBase, record_base

    if Path(model).is_file():
        with Path(model).open("rb") as file:
            return KnownBase.from_json(file.read(MAX_BYTES + 1), model)
    from adapthub.adapters.base import resolve_base
    from adapthub.cli.data import find_base

    return record_base(resolve_base(find_base(model)))
