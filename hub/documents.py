"""A registry's values as JSON documents with stable keys: what the server answers and what `--json` prints.

Builds plain data. Asks no hub, and lays nothing out for people.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from adapthub.hub.audit import AuditEntry
    from adapthub.hub.bases import ListedBase
    from adapthub.hub.composition import Composition
    from adapthub.hub.leaderboard import Board, Ranking
    from adapthub.hub.registry import Alias, Ancestor, Details, Entry, Facts, Fit, Lineage, Metric, Version


def version_record(version: Version) -> dict[str, Any]:
    """One version; `size` in bytes, `created` in ISO 8601, UTC; null is what a plain hub does not say in its lists."""
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
        "metrics": [_metric_record(metric) for metric in facts.metrics],
    }


def _metric_record(metric: Metric) -> dict[str, Any]:
    # By hand: a page has hundreds, and asdict copies each value.
    return {
        "split": metric.split,
        "name": metric.name,
        "value": metric.value,
        "low": metric.low,
        "high": metric.high,
        "n": metric.n,
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


def base_record(base: ListedBase) -> dict[str, Any]:
    """A base in a list."""
    return {**asdict(base), "added": base.added.isoformat()}


def board_record(board: Board) -> dict[str, Any]:
    """A leaderboard without its standings."""
    return {**asdict(board), "metrics": list(board.metrics)}


def ranking_record(ranking: Ranking) -> dict[str, Any]:
    """A leaderboard by one metric, the best first."""
    return {
        **board_record(ranking.board),
        "metric": ranking.metric,
        "lower_is_better": ranking.lower_is_better,
        "cut": ranking.cut,
        "standings": [
            {
                "rank": one.rank,
                "ties": one.ties,
                "name": one.name,
                "version": f"v{one.number}",
                "digest": one.digest,
            }
            | {"value": one.value, "low": one.low, "high": one.high, "n": one.n}
            for one in ranking.standings
        ],
    }


def lineage_record(lineage: Lineage) -> dict[str, Any]:
    """What a version comes from (`versions`, itself first) and what came of it, nearest first. `version` is null where it is
    not found here."""
    return {
        "root": lineage.root,
        "versions": [_ancestor(one) for one in lineage.versions.values()],
        "descendants": [_ancestor(one) for one in lineage.descendants.values()],
        "unpinned": list(lineage.unpinned),
        "cut": lineage.cut,
    }


def composition_record(composition: Composition) -> dict[str, Any]:
    """Two adapters together; `possible` is null where it is not known."""
    return asdict(composition)


def audit_record(entry: AuditEntry) -> dict[str, Any]:
    """One entry of the audit log; `hash` and `previous` link it to its neighbours."""
    return {
        "number": entry.number,
        "time": entry.time.isoformat(),
        "actor": entry.actor,
        "token": entry.token,
        "action": entry.action,
        "namespace": entry.namespace,
        "repo": entry.repo,
        "detail": dict(entry.detail),
        "previous": entry.previous,
        "hash": entry.hash,
    }


def _ancestor(one: Ancestor) -> dict[str, Any]:
    return {
        "digest": one.digest,
        "name": one.name,
        "version": None if one.number is None else f"v{one.number}",
        "parents": list(one.parents),
        "found": one.found,
    }
