"""Pages of repositories for the server: filtered, newest first, each page by one range of an index.

Whatever a filter says is looked up in `terms`, `repo_text` or `repos`, whose keys end in the same `sequence`, so that a page
costs the same however many repositories there are. Of several filters the rarest is walked through, and the others are held
against each repository that it has. Does not decide what of a repository is shown.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from sqlalchemy import ColumnElement, Select, and_, exists, select
from sqlalchemy.orm import Session, aliased

from adapthub.hub.access import Caller, visible
from adapthub.hub.narrowing import Narrowest, narrowest
from adapthub.hub.search import metric_condition
from adapthub.hub.storage.tables import MetricRow, RepoRow, TermRow
from adapthub.hub.storage.text import contains, text_index

Sort = Literal["modified", "created", "metric"]


@dataclass(frozen=True)
class Query:
    """What a list shows. `tags`: all of them; `terms`: all of these (kind, term) of `terms`; `text`: each word occurs in the
    name, card or facts; `metric`: "f1>=0.8", as `Registry.search` has it; `gated`: whether it is.

    Sorted by "metric" the best is first, which needs a `metric`. `after` is the place that the page before ended at.
    """

    tags: Sequence[str] = ()
    terms: Sequence[tuple[str, str]] = ()
    text: str = ""
    metric: str | None = None
    namespace: str | None = None
    gated: bool | None = None
    sort: Sort = "modified"
    ascending: bool = False
    limit: int = 100
    after: int | None = None


@dataclass(frozen=True)
class Page:
    """Repositories in order, and the place that the next page begins after; None where this is the last one."""

    repos: Sequence[RepoRow]
    next: int | None


def list_repos(session: Session, caller: Caller, query: Query) -> Page:
    """The page of what `caller` may see. Raises InvalidSettings for a `metric` that is no condition."""
    place: ColumnElement[int] = (
        RepoRow.sequence.expression if query.sort == "modified" else RepoRow.id.expression
    )
    found = select(RepoRow).where(visible(caller))
    walked = _narrowest(session, query)
    for kind, wanted in _terms(query):
        term = aliased(TermRow)
        same = and_(term.kind == kind, term.term == wanted, term.sequence == RepoRow.sequence)
        if (kind, wanted) == walked.term:
            found = found.join(term, same)
            place = term.sequence.expression if query.sort == "modified" else place
        else:
            found = found.where(exists().where(same))
    if words := query.text.split():
        index = text_index(session)
        found = found.join(index.table, index.key == RepoRow.sequence)
        found = found.where(*contains(session, words, among_few=walked.few))
        place = index.key if query.sort == "modified" and not walked.few else place
    if query.namespace is not None:
        found = found.where(RepoRow.namespace == query.namespace)
    if query.gated is not None:
        found = found.where(RepoRow.gated.is_not(None) if query.gated else RepoRow.gated.is_(None))
    if query.metric is not None:
        measured = metric_condition(query.metric)
        found = found.join(MetricRow, and_(MetricRow.repo_id == RepoRow.id, measured.holds))
        if query.sort == "metric":
            return _best(session, found.order_by(measured.best_first, RepoRow.id), query)
    if query.after is not None:
        found = found.where(place > query.after if query.ascending else place < query.after)
    found = found.order_by(place.asc() if query.ascending else place.desc()).limit(query.limit + 1)
    rows = session.scalars(found).all()
    page = rows[: query.limit]
    more = len(rows) > query.limit
    last = page[-1] if page else None
    end = None if last is None else (last.sequence if query.sort == "modified" else last.id)
    return Page(page, end if more else None)


def _terms(query: Query) -> list[tuple[str, str]]:
    """What must be so exactly, each once."""
    return [*dict.fromkeys([*(("tag", tag) for tag in query.tags), *query.terms])]


def _narrowest(session: Session, query: Query) -> Narrowest:
    """What is walked through. Terms are not in the order of creation: sorted by that, only few are."""
    terms = _terms(query)
    if query.sort == "modified" and len(terms) + (query.namespace is not None) + bool(query.text.strip()) < 2:
        return Narrowest(terms[0] if terms else None)
    found = narrowest(session, terms, query.namespace)
    return found if query.sort == "modified" or found.few else Narrowest()


def _best(session: Session, found: Select[RepoRow], query: Query) -> Page:
    """A page of what is sorted by a value, which many may have: its place is a count."""
    skip = query.after or 0
    rows = session.scalars(found.offset(skip).limit(query.limit + 1)).all()
    return Page(rows[: query.limit], skip + query.limit if len(rows) > query.limit else None)
