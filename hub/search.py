"""Which adapters a list or a search shows: their newest versions, filtered by the database's indexes.

The meaning of each condition is stated on `Registry.search`. Ranks nothing but metrics, and guesses no
spelling.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import ColumnElement, Select, and_, select, true
from sqlalchemy.orm import Session, contains_eager, joinedload, selectinload

from adapthub.adapters.errors import InvalidSettings
from adapthub.hub.records import entry_of
from adapthub.hub.registry import Entry
from adapthub.hub.storage.tables import AliasRow, MetricRow, RepoRow, TermRow, VersionRow
from adapthub.hub.storage.text import contains, text_index

_METRIC = re.compile(
    r"\s*([^\s<>=]+)\s*(>=|<=|==|>|<|=)\s*([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*", re.ASCII
)
_COMPARE: dict[str, Callable[[Any, Any], Any]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
    "==": operator.eq,
    "=": operator.eq,
}
_FINGERPRINT = re.compile(r"sha256:[0-9a-f]{7,64}")


@dataclass(frozen=True)
class Window:
    """What of an answer somebody gets: repositories of which `visible` holds, `limit` of them after the first `skip`."""

    visible: ColumnElement[bool] = field(default_factory=true)
    limit: int | None = None
    skip: int = 0


def list_entries(session: Session, namespace: str | None, window: Window = Window()) -> list[Entry]:
    """Every adapter, or those of one namespace, by name."""
    query = _newest()
    if namespace is not None:
        query = query.where(RepoRow.namespace == namespace)
    return _entries(session, query, window)


def search_entries(
    session: Session,
    text: str | None = None,
    *,
    base: str | None = None,
    task: str | None = None,
    metric: str | None = None,
    method: str | None = None,
    label: str | None = None,
    window: Window = Window(),
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
    return _entries(session, query, window)


def _newest() -> Select[RepoRow, VersionRow]:
    is_newest = and_(VersionRow.repo_id == RepoRow.id, VersionRow.number == RepoRow.newest)
    return select(RepoRow, VersionRow).join(VersionRow, is_newest)


def _entries(session: Session, query: Select[RepoRow, VersionRow], window: Window) -> list[Entry]:
    query = query.where(window.visible).order_by(RepoRow.namespace, RepoRow.name)
    query = (
        query.limit(window.limit)
        .offset(window.skip)
        .options(
            contains_eager(VersionRow.repo),
            joinedload(VersionRow.commit),
            selectinload(RepoRow.aliases).options(joinedload(AliasRow.version)),
        )
    )
    return [entry_of(repo, version) for repo, version in session.execute(query)]


def has_term(*conditions: ColumnElement[bool]) -> ColumnElement[bool]:
    """Whether a repository has a term of which `conditions` hold."""
    return RepoRow.id.in_(select(TermRow.repo_id).where(*conditions))


def _has_base(base: str) -> ColumnElement[bool]:
    if _FINGERPRINT.fullmatch(base):
        begins = and_(TermRow.term >= base, TermRow.term < f"{base}g")
        return has_term(TermRow.kind == "fingerprint", begins)
    return has_term(TermRow.kind == "base", TermRow.term == base)


def _measured(query: Select[RepoRow, VersionRow], expression: str) -> Select[RepoRow, VersionRow]:
    match = _METRIC.fullmatch(expression)
    if match is None:
        raise InvalidSettings(
            f"{expression!r} is not a condition on a metric", hint='Write one as in "f1>=0.8" or "loss<0.3".'
        )
    name, sign, number = match.groups()
    holds = _COMPARE[sign](MetricRow.value, float(number))
    of_repo = and_(MetricRow.repo_id == RepoRow.id, MetricRow.name == name)
    best_first = MetricRow.value.asc() if "<" in sign else MetricRow.value.desc()
    return query.join(MetricRow, of_repo).where(holds).order_by(best_first)
