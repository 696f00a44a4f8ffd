"""A hub's answers as JSON records with stable keys, and as rows of a table. Asks no hub itself."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from adapthub.cli.text import one_line, size

if TYPE_CHECKING:
    from adapthub.hub.registry import Alias, Details, Entry, Facts, Metric, Version
    from adapthub.recipes.metrics import Estimate

ENTRY_COLUMNS = ("name", "version", "task", "metric", "base", "method", "aliases", "size", "created")


def version_record(version: Version) -> dict[str, Any]:
    """One version; `size` in bytes, `created` in ISO 8601, UTC; null is what the hub does not say in its lists."""
    return {
        "name": version.name,
        "version": f"v{version.number}" if version.number else None,
        "digest": version.digest or None,
        "created": version.created.isoformat(),
        "message": version.message,
        "size": version.size if version.digest else None,
    }


def facts_record(facts: Facts) -> dict[str, Any]:
    """What a version says of itself; null is: not recorded."""
    return {
        "task": facts.task,
        "method": facts.method,
        "rank": facts.rank,
        "labels": None if facts.labels is None else list(facts.labels),
        "base": facts.base,
        "base_fingerprint": facts.base_fingerprint,
        "metrics": [asdict(metric) for metric in facts.metrics],
    }


def entry_record(entry: Entry) -> dict[str, Any]:
    """One adapter of a list: its newest version, what that says of itself, and where its aliases point."""
    aliases = {alias: f"v{number}" for alias, number in entry.aliases.items()}
    return {
        **version_record(entry.latest),
        **facts_record(entry.facts),
        "versions": entry.versions,
        "aliases": aliases,
    }


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


def details_record(details: Details) -> dict[str, Any]:
    """Everything about one version."""
    return {
        **version_record(details.version),
        **facts_record(details.facts),
        "versions": [version_record(version) for version in details.versions],
        "aliases": [alias_record(alias) for alias in details.aliases],
        "files": [asdict(file) for file in details.files],
        "manifest": details.manifest,
    }


def alias_record(alias: Alias) -> dict[str, Any]:
    """An alias and every move that it made, oldest first; `from` is null where it was new."""
    moves = [
        {
            "when": move.when.isoformat(),
            "from": None if move.source is None else f"v{move.source}",
            "to": f"v{move.target}",
        }
        for move in alias.history
    ]
    return {"alias": alias.name, "version": f"v{alias.number}", "history": moves}


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
