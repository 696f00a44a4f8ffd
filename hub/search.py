"""Which adapters a list or a search shows: their newest versions, filtered by the database's indexes.

The meaning of each condition is stated on `Registry.search`. Ranks nothing but metrics, and guesses no
spelling.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, Select, and_, select
from sqlalchemy.orm import Session

from adapthub.hub.conditions import is_fingerprint, measured
from adapthub.hub.records import ENTRY, entry_of
from adapthub.hub.registry import Entry
from adapthub.hub.storage.tables import AliasRow, CommitRow, MetricRow, RepoRow, TermRow, VersionRow
from adapthub.hub.storage.text import contains, text_index

_AT_ONCE = 500  # parameters of a statement


def list_entries(session: Session, namespace: str | None) -> list[Entry]:
    """Every adapter, or those of one namespace, by name."""
    query = _newest()
    if namespace is not None:
        query = query.where(RepoRow.namespace == namespace)
    return [*_entries(session, query.order_by(RepoRow.namespace, RepoRow.name)).values()]


def search_entries(
    session: Session,
    text: str | None = None,
    *,
    base: str | None = None,
    task: str | None = None,
    metric: str | None = None,
    method: str | None = None,
    label: str | None = None,
) -> list[Entry]:
    """Adapters whose newest version meets every condition that is given. Raises InvalidSettings for
    `metric`."""
    query = _newest()
    if base is not None:
        query = query.where(_has_base(base))
    for kind, term in (("task", task), ("method", method), ("label", label)):
        if term is not None:
            query = query.where(has_term(TermRow.kind == kind, TermRow.term == term))
    if text:
        index = text_index(session)
        found = select(index.key).select_from(index.table).where(*contains(session, text.split()))
        query = query.where(RepoRow.sequence.in_(found))
    if metric is not None:
        query = _measured(query, metric)
    return [*_entries(session, query.order_by(RepoRow.namespace, RepoRow.name)).values()]


def _newest() -> Select[*tuple[Any, ...]]:
    is_newest = and_(VersionRow.repo_id == RepoRow.id, VersionRow.number == RepoRow.newest)
    query = select(*ENTRY).select_from(RepoRow).join(VersionRow, is_newest)
    return query.join(CommitRow, CommitRow.id == VersionRow.id)


def _entries(session: Session, query: Select[*tuple[Any, ...]]) -> dict[int, Entry]:
    """By repository, in the query's order."""
    rows = session.execute(query).all()
    aliases = _aliases(session, [row.id for row in rows])
    return {row.id: entry_of(row, aliases.get(row.id, {})) for row in rows}


def _aliases(session: Session, repo_ids: Sequence[int]) -> dict[int, dict[str, int]]:
    """The number of the version that each alias points to, by repository."""
    query = select(AliasRow.repo_id, AliasRow.alias, VersionRow.number).join(
        VersionRow, VersionRow.id == AliasRow.version_id
    )
    found: dict[int, dict[str, int]] = {}
    for start in range(0, len(repo_ids), _AT_ONCE):
        some = AliasRow.repo_id.in_(repo_ids[start : start + _AT_ONCE])
        for repo_id, alias, number in session.execute(query.where(some).order_by(AliasRow.alias)):
            found.setdefault(repo_id, {})[alias] = number
    return found


def has_term(*conditions: ColumnElement[bool]) -> ColumnElement[bool]:
    """Whether a repository has a term of which `conditions` hold."""
    return RepoRow.id.in_(select(TermRow.repo_id).where(*conditions))


def entries_of(session: Session, repo_ids: Sequence[int]) -> dict[int, Entry]:
    """Those of the repositories with these keys that have a version, by key."""
    return _entries(session, _newest().where(RepoRow.id.in_(repo_ids)))


def _has_base(base: str) -> ColumnElement[bool]:
    if is_fingerprint(base):
        begins = and_(TermRow.term >= base, TermRow.term < f"{base}g")
        return has_term(TermRow.kind == "fingerprint", begins)
    return has_term(TermRow.kind == "base", TermRow.term == base)


def _measured(query: Select[*tuple[Any, ...]], expression: str) -> Select[*tuple[Any, ...]]:
    metric = measured(expression)
    query = query.join(MetricRow, and_(MetricRow.repo_id == RepoRow.id, metric.of_row))
    return query.order_by(MetricRow.value.asc() if metric.ascending else MetricRow.value.desc())
