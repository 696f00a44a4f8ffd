"""`adapt list`, `search`, `show`: what a hub holds. The hub finds; `records` and `output` lay out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from adapthub.cli.certificates import certificates_of, show_certificates
from adapthub.cli.options import complete_names, hub_option
from adapthub.cli.output import json_option, show_json, show_record, show_table
from adapthub.cli.records import (
    ENTRY_COLUMNS,
    entry_row,
    metric_text,
    most_telling_first,
)
from adapthub.cli.text import one_line, size
from adapthub.hub.documents import details_record, entry_record, version_record

if TYPE_CHECKING:
    from collections.abc import Sequence

    from adapthub.hub.registry import Details, Entry, Fit


@click.command("list")
@click.argument("namespace", required=False)
@hub_option
@json_option
def list_adapters(namespace: str | None, hub: str | None, as_json: bool) -> None:
    """List the adapters of the hub, or those of one NAMESPACE.

    \b
    Example:
      $ adapt list
      $ adapt list acme --json
    """
    from adapthub.cli.chosen_hub import open_chosen

    found = open_chosen(hub)
    entries, empty = found.list(namespace), "No adapters here yet: adapt push FOLDER NAME."
    if not entries and (others := sorted({entry.name.partition("/")[0] for entry in found.list()})):
        empty = f"No adapters of {namespace} here. There is: {', '.join(others)}."
    _show_entries(entries, as_json, empty=empty)


@click.command()
@click.argument("words", nargs=-1)
@click.option("--base", help="The base model's id, or the beginning of its fingerprint.")
@click.option("--task", help="The task, such as token-classification.")
@click.option("--metric", help='A bound on a metric, such as "f1>=0.8"; the best come first.')
@click.option("--method", help="The method, such as lora.")
@click.option("--label", help="A label that it knows, such as B-PER.")
@hub_option
@json_option
def search(
    words: tuple[str, ...],
    *,
    base: str | None,
    task: str | None,
    metric: str | None,
    method: str | None,
    label: str | None,
    hub: str | None,
    as_json: bool,
) -> None:
    """Find adapters by words, base, task, metric, method or label.

    WORDS are looked for in names, labels, messages and cards.

    \b
    Example:
      $ adapt search acme --task token-classification
      $ adapt search --metric "f1>=0.0" --json
    """
    from adapthub.cli.chosen_hub import open_chosen

    found = open_chosen(hub)
    entries = found.search(
        " ".join(words) or None, base=base, task=task, metric=metric, method=method, label=label
    )
    empty = "" if entries or as_json else _why_none(found.list(), base=base, task=task, method=method)
    _show_entries(entries, as_json, empty=empty, metric=metric)


@click.command()
@click.argument("ref", shell_complete=complete_names)
@hub_option
@json_option
def show(ref: str, hub: str | None, as_json: bool) -> None:
    """Show everything about the adapter REF.

    What it is, its metrics, versions, aliases and files.

    \b
    Example:
      $ adapt show acme/ner
      $ adapt show acme/ner@v1 --json
    """
    from adapthub.cli.chosen_hub import open_chosen

    details = open_chosen(hub).show(ref)
    if as_json:
        show_json(details_record(details))
    else:
        _show_details(details)


def _show_entries(entries: Sequence[Entry], as_json: bool, *, empty: str, metric: str | None = None) -> None:
    if as_json:
        show_json([entry_record(entry) for entry in entries])
    else:
        show_table([entry_row(entry, metric) for entry in entries], ENTRY_COLUMNS, empty=empty)


def _why_none(entries: Sequence[Entry], **wanted: str | None) -> str:
    """What to say where a search found nothing: the first wanted value that no adapter has, and those that some
    have."""
    for field, value in wanted.items():
        known = sorted({found for entry in entries if (found := getattr(entry.facts, field)) is not None})
        if value is not None and value not in known and known and not value.startswith("sha256:"):
            return f"No adapter here has the {field} {value}. There is: {', '.join(map(one_line, known))}."
    return "Nothing fits; adapt list shows everything."


def _show_details(details: Details) -> None:
    record = details_record(details)
    summary = {
        key: record[key]
        for key in (
            "name",
            "version",
            "digest",
            "created",
            "message",
            "task",
            "method",
            "rank",
            "labels",
            "base",
        )
    }
    made = {key: (details.manifest or {}).get(key) for key in ("recipe", "quantization", "seed")}
    known = {"targets": record["targets"], "fit": _fit_text(details.fit)}
    show_record({**summary, **made, **known, "size": size(details.version.size)})
    if details.facts.metrics:
        click.echo("\nMetrics, with 95 % intervals")
        for metric in most_telling_first(details.facts):
            click.echo(f"  {metric_text(metric)}" + (f" (n {metric.n})" if metric.n is not None else ""))
    if certificates := certificates_of(details.manifest):
        click.echo("\nPortability: over other forms of its base")
        show_certificates(certificates)
    click.echo("\nVersions")
    versions = [
        {
            **version_record(version),
            "size": size(version.size),
            "created": f"{version.created:%Y-%m-%d %H:%M}",
            "digest": version.digest[:19],
        }
        for version in details.versions
    ]
    show_table(versions, ("version", "created", "size", "digest", "message"))
    if details.aliases:
        click.echo("\nAliases")
        rows = [
            {**alias, "history": " -> ".join(move["to"] for move in alias["history"])}
            for alias in record["aliases"]
        ]
        show_table(rows, ("alias", "version", "history"))
    click.echo("\nFiles")
    show_table([{**file, "size": size(file["size"])} for file in record["files"]], ("path", "size", "sha256"))


def _fit_text(fit: Fit | None) -> str | None:
    if fit is None:
        return None
    if fit.verdict == "unknown":
        return "not known: the hub has no record of its base"
    if fit.differences:
        return f"every tensor lands, on another base than it was trained on: {'; '.join(fit.differences)}"
    return f"every tensor lands on {(fit.base or '')[:19]}"
