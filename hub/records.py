"""Between the rows of a hub's tables and the values that a registry answers with. Runs no queries of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from sqlalchemy import Row

from adapthub.adapters.admission import IGNORED
from adapthub.hub.facts import headlines
from adapthub.hub.registry import Alias, Entry, Facts, Metric, Move, StoredFile, Version
from adapthub.hub.storage.tables import AliasMoveRow, CommitRow, RepoRow, VersionRow

ENTRY = (
    RepoRow.id,
    RepoRow.namespace,
    RepoRow.name,
    RepoRow.newest,
    VersionRow.number,
    VersionRow.digest,
    VersionRow.size,
    VersionRow.method,
    VersionRow.task,
    VersionRow.base,
    VersionRow.base_fingerprint,
    VersionRow.rank,
    VersionRow.labels,
    VersionRow.metrics,
    CommitRow.created,
    CommitRow.message,
)
"""The columns that an entry of a list is made from: whole rows, with cards and tags, would take three times as long."""


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


def entry_of(row: Row[*tuple[Any, ...]], aliases: Mapping[str, int]) -> Entry:
    """A repository in a list, of ENTRY; `aliases`: the number of the version that each points to."""
    name, digest = f"{row.namespace}/{row.name}", f"sha256:{row.digest}"
    facts = facts_of(row)
    shown = headlines(facts.metrics)
    metrics = tuple(metric for metric in facts.metrics if (metric.split, metric.name) in shown)
    return Entry(
        latest=Version(name, row.number, digest, row.created, row.message, row.size),
        facts=replace(facts, metrics=metrics),
        versions=row.newest,
        aliases=aliases,
    )


def facts_of(row: VersionRow | Row[*tuple[Any, ...]]) -> Facts:
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
