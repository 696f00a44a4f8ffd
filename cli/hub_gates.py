"""`adapt hub gate`, `key`, `approve`: what must hold before an alias moves. The hub's gates do all of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from adapthub.cli.hub_names import name_of
from adapthub.cli.hub_tokens import hub_database
from adapthub.cli.options import complete_names, data_options
from adapthub.cli.output import json_option, show_json, show_table

if TYPE_CHECKING:
    from adapthub.hub.gates import Gate
    from adapthub.hub.signing_keys import PublicKey


@click.group()
def gate() -> None:
    """What must hold before an alias moves to a version.

    \b
    Example:
      $ adapt hub gate list
    """


@gate.command("set")
@click.argument("target", metavar="NAME")
@click.argument("alias")
@click.option("--signature", is_flag=True, help="A signature by a key of adapt hub key list.")
@click.option(
    "--evaluation",
    "evaluations",
    metavar="SPLIT/METRIC",
    multiple=True,
    help="A number not worse than the current version's interval. Repeatable; :lower after it: less is better.",
)
@click.option(
    "--reviewers", type=click.IntRange(0), default=0, help="Approvals by others than who pushed it."
)
@data_options
@json_option
def set_(
    target: str,
    alias: str,
    signature: bool,
    evaluations: tuple[str, ...],
    reviewers: int,
    data: Path | None,
    database: str | None,
    as_json: bool,
) -> None:
    """Let ALIAS of NAME move only to versions for which all of this holds.

    NAME is namespace/name, or a namespace alone for all that is in it. ALIAS may be a pattern: prod-*. A gate for the
    same NAME and ALIAS is replaced. It holds for everybody, adapt promote on this machine too.

    \b
    Example:
      $ adapt hub gate set acme/ner prod --evaluation test/f1 --reviewers 1
      $ adapt hub gate set acme 'prod*' --signature
    """
    from adapthub.hub.gates import Gate, set_gate

    namespace, name = name_of(target)
    wanted = Gate(namespace, name, alias, signature, evaluations, reviewers)
    with hub_database(data, database).writing() as session:
        made = set_gate(session, wanted)
    _say(made, as_json, f"{alias} of {target} needs {_words(made)}.")


@gate.command("list")
@click.argument("namespace", required=False)
@data_options
@json_option
def list_(namespace: str | None, data: Path | None, database: str | None, as_json: bool) -> None:
    """List the gates in NAMESPACE, or all.

    \b
    Example:
      $ adapt hub gate list acme --json
    """
    from adapthub.hub.gates import list_gates

    with hub_database(data, database).reading() as session:
        records = [_record(one) for one in list_gates(session, namespace)]
    if as_json:
        show_json(records)
    else:
        columns = ("namespace", "name", "alias", "signature", "evaluations", "reviewers")
        show_table(records, columns, empty="No gates yet: adapt hub gate set NAME ALIAS.")


@gate.command()
@click.argument("target", metavar="NAME")
@click.argument("alias")
@data_options
@json_option
def remove(target: str, alias: str, data: Path | None, database: str | None, as_json: bool) -> None:
    """Ask for nothing any more before ALIAS of NAME moves.

    \b
    Example:
      $ adapt hub gate remove acme/ner prod
    """
    from adapthub.hub.gates import remove_gate

    with hub_database(data, database).writing() as session:
        gone = remove_gate(session, *name_of(target), alias)
    _say(gone, as_json, f"{alias} of {target} needs nothing by that gate any more.")


@click.group()
def key() -> None:
    """The public keys whose signatures the gates of a namespace believe.

    \b
    Example:
      $ adapt hub key list acme
    """


@key.command()
@click.argument("namespace")
@click.argument("name")
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False), required=False)
@data_options
@json_option
def add(
    namespace: str, name: str, file: Path | None, data: Path | None, database: str | None, as_json: bool
) -> None:
    """Let gates of NAMESPACE believe the public key in FILE, as NAME.

    Without FILE it is the key of that name in adapt key list.

    \b
    Example:
      $ adapt hub key add acme releases
    """
    from adapthub.hub.namespace_keys import add_key
    from adapthub.hub.signing_keys import public_key

    pem = public_key(str(file or name)).pem
    with hub_database(data, database).writing() as session:
        _say_key(add_key(session, namespace, name, pem), as_json, f"{namespace} believes ")


@key.command("remove")
@click.argument("namespace")
@click.argument("name")
@data_options
@json_option
def remove_(namespace: str, name: str, data: Path | None, database: str | None, as_json: bool) -> None:
    """Let gates of NAMESPACE believe the key NAME no longer.

    \b
    Example:
      $ adapt hub key remove acme releases
    """
    from adapthub.hub.namespace_keys import remove_key

    with hub_database(data, database).writing() as session:
        _say_key(remove_key(session, namespace, name), as_json, f"{namespace} no longer believes ")


@key.command("list")
@click.argument("namespace")
@data_options
@json_option
def list_keys(namespace: str, data: Path | None, database: str | None, as_json: bool) -> None:
    """List the keys that gates of NAMESPACE believe.

    \b
    Example:
      $ adapt hub key list acme
    """
    from adapthub.hub.namespace_keys import keys_of

    with hub_database(data, database).reading() as session:
        records = [{"name": found.name, "id": found.id} for found in keys_of(session, namespace)]
    if as_json:
        show_json(records)
    else:
        show_table(records, ("name", "id"), empty=f"No keys yet: adapt hub key add {namespace} NAME.")


@click.command()
@click.argument("ref", shell_complete=complete_names)
@click.option("--as", "account", required=True, metavar="ACCOUNT", help="Whose approval it is.")
@data_options
@json_option
def approve(ref: str, account: str, data: Path | None, database: str | None, as_json: bool) -> None:
    """Let ACCOUNT have found the version REF good.

    It must be able to write to the namespace, and not be the one that pushed the version. Elsewhere than on the hub's
    own machine: PUT /api/models/NAMESPACE/NAME/approval/REVISION with a token.

    \b
    Example:
      $ adapt hub approve acme/ner@v2 --as grace
    """
    from adapthub.hub import gates
    from adapthub.hub.lookup import require_version
    from adapthub.hub.reference import Reference

    with hub_database(data, database).writing() as session:
        version = require_version(session, Reference.parse(ref))
        gates.approve(session, version, account)
        record: dict[str, Any] = {
            "name": version.repo.full_name,
            "version": version.number,
            "approvals": gates.approvals(session, version),
        }
    if as_json:
        show_json(record)
    else:
        click.echo(
            f"v{record['version']} of {record['name']} is approved by {', '.join(record['approvals'])}."
        )


def _record(one: Gate) -> dict[str, Any]:
    return {
        "namespace": one.namespace,
        "name": one.name or None,
        "alias": one.alias,
        "signature": one.signature,
        "evaluations": list(one.evaluations),
        "reviewers": one.reviewers,
    }


def _words(one: Gate) -> str:
    asked = [
        *(["a signature"] if one.signature else []),
        *(f"{evaluation} that is not worse" for evaluation in one.evaluations),
        *([f"{one.reviewers} approving"] if one.reviewers else []),
    ]
    return ", ".join(asked)


def _say(one: Gate, as_json: bool, words: str) -> None:
    if as_json:
        show_json(_record(one))
    else:
        click.echo(words)


def _say_key(found: PublicKey, as_json: bool, words: str) -> None:
    if as_json:
        show_json({"name": found.name, "id": found.id})
    else:
        click.echo(f"{words}{found.name}  {found.id[:12]}")
