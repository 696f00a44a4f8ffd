"""A registry's values as JSON documents with stable keys: what the server answers and what `--json` prints.

Builds plain data. Asks no hub, and lays nothing out for people.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from adapthub.hub.registry import Alias, Details, Entry, Facts, Fit, Version


def version_record(version: Version) -> dict[str, Any]:
    """One version; `size` in bytes, `created` in ISO 8601, UTC."""
    return {
        "name": version.name,
        "version": f"v{version.number}",
        "digest": version.digest,
        "created": version.created.isoformat(),
        "message": version.message,
        "size": version.size,
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


def fit_record(fit: Fit | None) -> dict[str, Any] | None:
    """Whether a version fits its base; null where that was not looked at."""
    return None if fit is None else {**asdict(fit), "differences": list(fit.differences)}


def entry_record(entry: Entry) -> dict[str, Any]:
    """One adapter of a list: its newest version, what that says of itself, and where its aliases point."""
    return {
        **version_record(entry.latest),
        **facts_record(entry.facts),
        "versions": entry.versions,
        "aliases": {alias: f"v{number}" for alias, number in entry.aliases.items()},
    }


def details_record(details: Details) -> dict[str, Any]:
    """Everything about one version."""
    return {
        **version_record(details.version),
        **facts_record(details.facts),
        "targets": None if details.targets is None else list(details.targets),
        "fit": fit_record(details.fit),
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
