"""Pages of adapters that meet conditions, for the server: newest first or best first, each page by a range of an index.

The conditions mean what `Registry.search` says; `search` gives all of them at once, by name. Every kind of term ends in the
repository's `sequence`, so a page costs the same however many adapters there are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import ColumnElement, Select, and_, select, tuple_
from sqlalchemy.orm import Session, aliased

from adapthub.adapters.errors import InvalidSettings
from adapthub.hub.access import Caller, visible
from adapthub.hub.search import is_fingerprint, metric_condition
from adapthub.hub.storage.tables import MetricRow, RepoRow, TermRow
from adapthub.hub.storage.text import contains, text_index

_DIGEST_LENGTH = len("sha256:") + 64
_FEW = 1000
_Terms = list[tuple[str, str | tuple[str, str]]]


@dataclass(frozen=True)
class Wanted:
    """What is looked for; None and "" ask for nothing."""

    namespace: str | None = None
    text: str = ""
    base: str | None = None
    task: str | None = None
    method: str | None = None
    label: str | None = None
    metric: str | None = None


@dataclass(frozen=True)
class Found:
    """The keys of repositories in order, and the cursor that the next page begins after; None where this is the last one."""

    ids: Sequence[int]
    next: str | None


def find_repos(
    session: Session, caller: Caller, wanted: Wanted, *, limit: int, after: str | None = None
) -> Found:
    """The page of what `caller` may see. Raises InvalidSettings for a condition or a cursor that does not read."""
    place: ColumnElement[int] = RepoRow.sequence.expression
    query = select(RepoRow.id, RepoRow.sequence).where(visible(caller), RepoRow.newest > 0)
    terms = _terms(session, wanted)
    for kind, begins in terms:
        term = aliased(TermRow)
        query = query.join(term, and_(term.kind == kind, term.sequence == RepoRow.sequence))
        # Of the repositories with one term the newest are the end of a range of the key; of several terms they are not.
        query = query.where(term.term == begins if isinstance(begins, str) else term.term.between(*begins))
        place = term.sequence.expression if isinstance(begins, str) and wanted.namespace is None else place
    if words := wanted.text.split():
        index = text_index(session)
        query = query.join(index.table, index.key == RepoRow.sequence).where(*contains(session, words))
        place = index.key if wanted.namespace is None else place
    if wanted.namespace is not None:
        query = query.where(RepoRow.namespace == wanted.namespace)
    if wanted.metric is not None:
        few = _few(session, terms)
        if few is not None:
            query = query.where(MetricRow.repo_id.in_(few))
        return _by_metric(session, query, wanted.metric, limit=limit, after=after)
    if after is not None:
        query = query.where(place < _whole(after))
    rows = session.execute(query.order_by(place.desc()).limit(limit + 1)).all()
    page = rows[:limit]
    return Found([row.id for row in page], str(page[-1].sequence) if len(rows) > limit else None)


def _by_metric(
    session: Session, query: Select[int, int], condition: str, *, limit: int, after: str | None
) -> Found:
    measured = metric_condition(condition)
    order = (MetricRow.value, MetricRow.repo_id)
    found = query.join(MetricRow, and_(MetricRow.repo_id == RepoRow.id, measured.holds))
    found = found.add_columns(MetricRow.value)
    if after is not None:
        place = _number_and_whole(after)
        found = found.where(tuple_(*order) > place if measured.ascending else tuple_(*order) < place)
    found = found.order_by(*(column.asc() if measured.ascending else column.desc() for column in order))
    rows = session.execute(found.limit(limit + 1)).all()
    page = rows[:limit]
    return Found([row.id for row in page], f"{page[-1].value!r}:{page[-1].id}" if len(rows) > limit else None)


def _few(session: Session, terms: _Terms) -> list[int] | None:
    """The keys of all repositories that have one of the terms, where those are few: then they are looked at one by one, and
    not every repository that has the metric."""
    for kind, begins in terms:
        same = TermRow.term == begins if isinstance(begins, str) else TermRow.term.between(*begins)
        query = select(TermRow.repo_id).where(TermRow.kind == kind, same).limit(_FEW + 1)
        found = session.scalars(query).all()
        if len(found) <= _FEW:
            return [*found]
    return None


def _terms(session: Session, wanted: Wanted) -> _Terms:
    """The terms that a repository must have: each its kind, and the term or the ends of a range of terms."""
    found: _Terms = [
        (kind, term)
        for kind, term in (("task", wanted.task), ("method", wanted.method), ("label", wanted.label))
        if term is not None
    ]
    if wanted.base is not None:
        found.append(_base_term(session, wanted.base))
    return found


def _base_term(session: Session, base: str) -> tuple[str, str | tuple[str, str]]:
    if not is_fingerprint(base):
        return "base", base
    if len(base) == _DIGEST_LENGTH:
        return "fingerprint", base
    ends = (base, f"{base}g")  # g comes after every hex digit
    within = and_(TermRow.kind == "fingerprint", TermRow.term.between(*ends))
    first, last = (
        session.scalar(select(TermRow.term).where(within).order_by(order).limit(1))
        for order in (TermRow.term.asc(), TermRow.term.desc())
    )
    return "fingerprint", first if first is not None and first == last else ends


def _whole(cursor: str) -> int:
    if not (cursor.isascii() and cursor.isdigit() and len(cursor) < 19):
        raise _wrong(cursor)
    return int(cursor)


def _number_and_whole(cursor: str) -> tuple[float, int]:
    number, _, key = cursor.partition(":")
    try:
        return float(number), _whole(key)
    except ValueError as error:
        raise _wrong(cursor) from error


def _wrong(cursor: str) -> InvalidSettings:
    return InvalidSettings(
        f"{cursor[:80]!r} is no cursor of this list", hint="Follow the header Link, or leave it out."
    )
