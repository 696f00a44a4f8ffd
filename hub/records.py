"""Between the rows of a hub's tables and the values that a registry answers with. Runs no queries of its own."""

from __future__ import annotations

from collections.abc import Mapping

from adapthub.adapters.admission import IGNORED
from adapthub.hub.facts import headlines
from adapthub.hub.registry import Alias, Entry, Facts, Metric, Move, StoredFile, Version
from adapthub.hub.storage.tables import AliasMoveRow, RepoRow, VersionRow


def version_of(row: VersionRow, *, repeated: bool = False) -> Version:
    """The version that `row` describes."""
    commit = row.commit
    return Version(
        row.repo.full_name,
        row.number,
        f"sha256:{row.digest}",
        commit.created,
        commit.message,
        row.size,
        repeated=repeated,
    )


def entry_of(repo: RepoRow, newest: VersionRow, aliases: Mapping[str, int]) -> Entry:
    """A repository in a list; `aliases`: the number of the version that each points to."""
    facts = facts_of(newest)
    shown = headlines(facts.metrics)
    return Entry(
        latest=version_of(newest),
        facts=Facts(
            facts.method,
            facts.task,
            facts.labels,
            facts.base,
            facts.base_fingerprint,
            facts.rank,
            tuple(metric for metric in facts.metrics if (metric.split, metric.name) in shown),
        ),
        versions=repo.newest,
        aliases=aliases,
    )


def facts_of(row: VersionRow) -> Facts:
    """What was extracted from the version at its push."""
    return Facts(
        method=row.method,
        task=row.task,
        labels=tuple(row.labels) or None,
        base=row.base,
        base_fingerprint=row.base_fingerprint,
        rank=row.rank,
        metrics=tuple(Metric(*metric) for metric in row.metrics),
    )


def aliases_of(repo: RepoRow) -> tuple[Alias, ...]:
    """The aliases of a repository with their moves, by name."""
    return tuple(
        Alias(
            alias.alias,
            alias.version.number,
            tuple(_move(move) for move in repo.moves if move.alias == alias.alias),
        )
        for alias in repo.aliases
    )


def files_of(row: VersionRow) -> tuple[StoredFile, ...]:
    """The files of a version's commit that its digest is over, by path."""
    return tuple(
        StoredFile(file.path, file.blob.sha256, file.blob.size)
        for file in row.commit.files
        if file.path.partition("/")[0] not in IGNORED
    )


def bare_digest(digest: str) -> str:
    """`<hex>` of "sha256:<hex>"."""
    return digest.removeprefix("sha256:")


def _move(row: AliasMoveRow) -> Move:
    return Move(row.moved, None if row.source is None else row.source.number, row.target.number)
