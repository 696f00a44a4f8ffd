"""A hub's answers as rows of a table and as lines. As JSON they are `hub/documents`. Asks no hub itself."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from adapthub.cli.text import one_line, size
from adapthub.hub.documents import entry_record

if TYPE_CHECKING:
    from adapthub.hub.registry import Entry, Facts, Metric
    from adapthub.recipes.metrics import Estimate

ENTRY_COLUMNS = ("name", "version", "task", "metric", "base", "method", "aliases", "size", "created")


def entry_row(entry: Entry, condition: str | None = None) -> dict[str, Any]:
    """The same for a person, by ENTRY_COLUMNS; with the metric of the `condition` that found it, else the most
    telling one."""
    metrics = most_telling_first(entry.facts)
    if condition is not None:
        wanted = re.split("[<>=]", condition)[0].strip()
        metrics.sort(key=lambda metric: metric.name != wanted)
    return {
        **entry_record(entry),
        "metric": metric_text(metrics[0]) if metrics else None,
        "size": size(entry.latest.size) if entry.latest.digest else None,
        "created": f"{entry.latest.created:%Y-%m-%d %H:%M}",
    }


def most_telling_first(facts: Facts) -> list[Metric]:
    """Its metrics: split by split, in each those first that sum up its task, the first of them foremost."""
    from adapthub.recipes.catalog import RECIPES

    telling = [name for recipe in RECIPES.values() if recipe.task == facts.task for name in recipe.metrics]
    ranks = {name: rank for rank, name in enumerate(dict.fromkeys(telling))}
    splits = list(dict.fromkeys(metric.split for metric in facts.metrics))
    return sorted(
        facts.metrics, key=lambda metric: (splits.index(metric.split), ranks.get(metric.name, len(ranks)))
    )


def metric_text(metric: Metric) -> str:
    """`test f1 0.802 [0.791, 0.813]`."""
    interval = "" if metric.low is None or metric.high is None else f" [{metric.low:.3f}, {metric.high:.3f}]"
    return f"{metric.split} {metric.name} {metric.value:.3f}{interval}"


def estimate_text(estimate: Estimate) -> str:
    """`0.802 [0.791, 0.813] (n 3453)`."""
    return f"{estimate.value:.3f} [{estimate.low:.3f}, {estimate.high:.3f}] (n {estimate.n})"


def version_line(version: Mapping[str, Any]) -> str:
    """`acme/ner@v3  sha256:0123456789ab  1.2 MB  message`."""
    parts = [
        f"{version['name']}@{version['version'] or version['digest'][7:19]}",
        version["digest"][:19],
        size(version["size"]),
    ]
    return "  ".join([*parts, one_line(version["message"])]).rstrip()
