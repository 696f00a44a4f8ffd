"""`adapt diff`: what changed between two adapters. `adapters/diff` compares; this lays out."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from adapthub.cli.options import complete_names, hub_option
from adapthub.cli.output import json_option, show_json, show_table
from adapthub.cli.text import size

if TYPE_CHECKING:
    from adapthub.adapters.diff import Difference, MetricChange
    from adapthub.adapters.manifest import Metric
    from adapthub.adapters.updates import Comparison

_SHOWN = 15
_NUMBERS = ("before", "after", "difference", "cosine", "before_rank", "after_rank")


@click.command()
@click.argument("before", shell_complete=complete_names)
@click.argument("after", shell_complete=complete_names)
@click.option("--all", "everything", is_flag=True, help="Every module, not only those that changed most.")
@hub_option
@json_option
def diff(before: str, after: str, everything: bool, hub: str | None, as_json: bool) -> None:
    """Show what changed from the adapter BEFORE to AFTER.

    Each is a folder or a name in the hub. Norms are Frobenius norms of the update that an adapter makes to a module; the
    effective rank says how many directions of it count; a cosine of 1 is the same direction. Nothing of the base is loaded.

    \b
    Example:
      $ adapt diff acme/ner@v1 acme/ner
      $ adapt diff acme/ner@v1 runs/ner/adapter --json
    """
    from adapthub.adapters.diff import difference, difference_record
    from adapthub.cli.chosen_hub import open_chosen
    from adapthub.cli.find import find_adapter

    registry = open_chosen(hub)
    found = difference(find_adapter(before, registry), find_adapter(after, registry))
    if as_json:
        show_json(difference_record(found))
    elif found.before == found.after:
        click.echo(f"The same adapter: {found.before}")
    else:
        _show(found, everything)


def _show(found: Difference, everything: bool) -> None:
    changed = {name: each for name, each in found.modules.items() if each.changed}
    shown = list(found.modules if everything else changed)
    rows = [_module_row(name, found.modules[name]) for name in (shown if everything else shown[:_SHOWN])]
    click.echo(f"Modules ({len(changed)} of {len(found.modules)} changed)")
    show_table(rows, ("module", "change", *_NUMBERS), empty="No weight changed.")
    if not everything and len(shown) > _SHOWN:
        click.echo(f"{len(shown) - _SHOWN} more changed less; --all shows them.")
    for title, changes in (("Configuration", found.configuration), ("Manifest", found.manifest or ())):
        if changes:
            click.echo(f"\n{title}")
            show_table(
                [{**asdict(change), "field": change.name} for change in changes], ("field", "before", "after")
            )
    if found.metrics:
        click.echo("\nMetrics, with 95 % intervals")
        show_table([_metric_row(change) for change in found.metrics], ("metric", "before", "after", "apart"))
    click.echo("\nFiles")
    files = [
        {
            "file": change.name,
            "before": None if change.before is None else size(change.before),
            "after": None if change.after is None else size(change.after),
        }
        for change in found.files
    ]
    show_table(files, ("file", "before", "after"))


def _module_row(name: str, comparison: Comparison) -> dict[str, Any]:
    """`change` is the difference as a share of what was there before."""
    share = None
    if comparison.before and comparison.difference is not None:
        share = f"{comparison.difference / comparison.before:.1%}"
    return {"module": name, "change": share, **asdict(comparison)}


def _metric_row(change: MetricChange) -> dict[str, Any]:
    return {
        "metric": f"{change.split} {change.name}",
        "before": _metric_text(change.before),
        "after": _metric_text(change.after),
        "apart": change.apart,
    }


def _metric_text(metric: Metric | None) -> str | None:
    if metric is None:
        return None
    interval = "" if metric.low is None or metric.high is None else f" [{metric.low:.3f}, {metric.high:.3f}]"
    return f"{metric.value:.3f}{interval} (n {metric.n})"
