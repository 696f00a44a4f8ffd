"""`adapt certify`: what an adapter is over its base in other numbers, and merged. `recipes.certify` measures."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from adapthub.adapters.errors import AdaptHubError, Conflict, InvalidSettings
from adapthub.cli.certificates import show_certificates
from adapthub.cli.data import data_option, find_split
from adapthub.cli.options import base_option, complete_names, device_option, hub_option
from adapthub.cli.output import announce, json_option, show_json
from adapthub.cli.set_option import set_option, settings

if TYPE_CHECKING:
    from adapthub.adapters.artifact import Artifact
    from adapthub.hub.registry import Registry, Version
    from adapthub.recipes import Certification


@click.command()
@click.argument("ref", shell_complete=complete_names)
@data_option
@click.option("--task", metavar="FILE", help="The file of a recipe of your own, where one trained it.")
@click.option("--split", default="test", show_default=True, help="Which split of a folder or sample.")
@click.option(
    "--form",
    "forms",
    multiple=True,
    type=click.Choice(["float32", "nf4", "int8", "bf16", "merged"]),
    help="Only this form of the base; may be given several times. Default: all but the one it was trained on.",
)
@base_option("the one the adapter was trained on")
@device_option
@click.option(
    "--output", type=click.Path(path_type=Path), help="Write the certified adapter to this new folder."
)
@click.option("--push", is_flag=True, help="Publish it as the next version of REF, which is then a name.")
@click.option("--message", "-m", default="portability certified", show_default=True, help="With --push.")
@click.option("--batch-size", type=int, default=64, show_default=True)
@click.option("--text-column", help="Where the text is.")
@click.option("--label-column", help="Where the label is; in CoNLL files a number, -1 is the last.")
@click.option("--encoding", help="Of the data file; default utf-8.")
@set_option("Any other way to read the data; see adapt recipes.")
@hub_option
@json_option
def certify(
    ref: str,
    *,
    data: str,
    task: str | None,
    split: str,
    forms: tuple[str, ...],
    base: str | None,
    output: Path | None,
    push: bool,
    message: str,
    batch_size: int,
    more: tuple[str, ...],
    hub: str | None,
    as_json: bool,
    **given: Any,
) -> None:
    """Measure an adapter over other forms of its base.

    They are nf4, int8 and bf16, and merged. Each is held against the base as the adapter was trained over it. REF is a
    name or a folder. A form is worse where a headline metric falls beyond its paired bootstrap 95 % interval; else it
    holds, as far as so many rows can tell. Drift is the largest and the mean difference of outputs, as shares of the
    largest; changed is the share of rows with another decision. --output or --push writes the certificates into the
    adapter's manifest and card.

    \b
    Example:
      $ adapt certify acme/ner --data test.conll --push
      $ adapt certify runs/ner/adapter --data test.conll --form int8 --form merged --output certified --json
    """
    from adapthub.cli.chosen_hub import open_chosen
    from adapthub.cli.find import chosen_base, find_adapter
    from adapthub.cli.quiet import quiet_libraries

    quiet_libraries()
    options = {name: value for name, value in given.items() if value is not None}
    options |= settings(more, of="certify")
    file = find_split(data, split)
    registry = open_chosen(hub)
    artifact = find_adapter(ref, registry)
    name = _name(ref) if push else None
    if name is not None:  # measuring may take long
        registry.check_may_push(name)
    if output is not None and output.exists():
        raise Conflict(f"{output} is there already", hint="Give --output a new folder.")

    from adapthub.recipes import certify as certify_adapter

    found = certify_adapter(
        artifact,
        file,
        forms=forms,
        base=chosen_base(base, artifact),
        batch_size=batch_size,
        task=task,
        report=(lambda line: None) if as_json else announce,
        **options,
    )
    for note in found.notes:
        announce(note)
    if not as_json:  # before what may fail yet
        show_certificates(found.certificates)
        for form, why in found.left_out.items():
            click.echo(f"{form} is left out: {why}")
    if not found.certificates and (output is not None or push):
        why = "; ".join(f"{form}: {words}" for form, words in found.left_out.items())
        raise InvalidSettings(f"there is no certificate to write, as no form could be measured: {why}")
    written = _written(found, output) if output is not None else None
    version = _published(found, written, name, registry, message) if name is not None else None
    if as_json:
        show_json(_record(found, written, version))
    else:
        _show_written(written, version)


def _name(ref: str) -> str:
    """The name to publish under, of the version REF. Raises InvalidReference where it is a folder."""
    from adapthub.hub.reference import Reference

    if Path(ref).exists():
        raise click.UsageError(
            "--push publishes a version of a name; REF is a folder. Use --output, then adapt push."
        )
    reference = Reference.parse(ref)
    return f"{reference.hub}::{reference.full_name}" if reference.hub else reference.full_name


def _written(found: Certification, target: Path) -> Artifact:
    from adapthub.recipes import write_certified

    return write_certified(found, target)


def _published(
    found: Certification, written: Artifact | None, name: str, registry: Registry, message: str
) -> Version:
    """The next version. What a push loses on its way is kept, and said."""
    kept = None if written is not None else Path(tempfile.mkdtemp(prefix="adapthub-certified-"))
    artifact = written if kept is None else _written(found, kept / "adapter")
    assert artifact is not None
    try:
        version = registry.push(artifact, name, message=message)
    except AdaptHubError as error:
        then = f"Publish it with: adapt push {artifact.path} {name}"
        raise type(error)(
            f"{error.message.rstrip('.')}. The certified adapter is kept at {artifact.path}",
            hint=f"{error.hint or ''} {then}".strip(),
        ) from error
    if kept is not None:
        shutil.rmtree(kept, ignore_errors=True)
    return version


def _record(found: Certification, written: Artifact | None, version: Version | None) -> dict[str, Any]:
    from adapthub.hub.documents import version_record

    return {
        "digest": found.artifact.digest,
        "trained_on": found.reference,
        "certificates": {form: one.model_dump(mode="json") for form, one in found.certificates.items()},
        "left_out": dict(found.left_out),
        "adapter": None if written is None else {"path": str(written.path), "digest": written.digest},
        "published": None if version is None else version_record(version),
    }


def _show_written(written: Artifact | None, version: Version | None) -> None:
    if version is not None:
        click.echo(f"Published {version.name}@v{version.number}, whose manifest and card say so.")
    if written is not None:
        click.echo(f"Written to {written.path}, whose manifest and card say so.")
    if written is None and version is None:
        click.echo("Nothing is written; --output FOLDER or --push keeps the certificates with the adapter.")
