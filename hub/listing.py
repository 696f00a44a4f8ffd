"""Pages of repositories for the server: filtered, newest first, each page by one range of an index.

Whatever a filter says is looked up in `terms`, `repo_text` or `repos`, whose keys end in the same `sequence`, so that a page
costs the same however many repositories there are. Of several filters the rarest is walked through, and the others are held
against each repository that it has. Does not decide what of a repository is shown.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from sqlalchemy import ColumnElement, Select, and_, exists, func, select
from sqlalchemy.orm import Session, aliased

from adapthub.hub.access import Caller, visible
from adapthub.hub.storage.tables import RepoRow, TermRow
from adapthub.hub.storage.text import contains, text_index

Sort = Literal["modified", "created"]
_FEW = 500


@dataclass(frozen=True)
class Query:
    """What a list shows. `tags`: all of them; `text`: each word occurs in the name, card or facts; `gated`: whether it is.

    `after` is the place that the page before ended at.
    """

    tags: Sequence[str] = ()
    text: str = ""
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
    """The page of what `caller` may see."""
    place: ColumnElement[int] = (
        RepoRow.sequence.expression if query.sort == "modified" else RepoRow.id.expression
    )
    found = select(RepoRow).where(visible(caller))
    narrowest = _narrowest(session, query)
    for tag in dict.fromkeys(query.tags):
        term = aliased(TermRow)
        same = and_(term.kind == "tag", term.term == tag, term.sequence == RepoRow.sequence)
        if tag == narrowest.tag:
            found = found.join(term, same)
            place = term.sequence.expression if query.sort == "modified" else place
        else:
            found = found.where(exists().where(same))
    if words := query.text.split():
        index = text_index(session)
        found = found.join(index.table, index.key == RepoRow.sequence)
        found = found.where(*contains(session, words, among_few=narrowest.few))
        place = index.key if query.sort == "modified" and not narrowest.few else place
    if query.namespace is not None:
        found = found.where(RepoRow.namespace == query.namespace)
    if query.gated is not None:
        found = found.where(RepoRow.gated.is_not(None) if query.gated else RepoRow.gated.is_(None))
    if query.after is not None:
        found = found.where(place > query.after if query.ascending else place < query.after)
    found = found.order_by(place.asc() if query.ascending else place.desc()).limit(query.limit + 1)
    rows = session.scalars(found).all()
    page = rows[: query.limit]
    more = len(rows) > query.limit
    last = page[-1] if page else None
    end = None if last is None else (last.sequence if query.sort == "modified" else last.id)
    return Page(page, end if more else None)


@dataclass(frozen=True)
class _Narrowest:
    """What is walked through, while the other conditions are held against each repository that it has: those with a `tag`,
    else those of the namespace, else all in their order. `few`: there are hardly any."""

    tag: str | None = None
    few: bool = False


def _narrowest(session: Session, query: Query) -> _Narrowest:
    """The condition that leaves the fewest when all are counted up to `_FEW`: SQLite does not know how rare a value is.

    Terms are not in the order of creation: sorted by that, only few are walked through and sorted.
    """
    tags = [*dict.fromkeys(query.tags)]
    by_term = query.sort == "modified"
    if by_term and len(tags) + (query.namespace is not None) + bool(query.text.strip()) < 2:
        return _Narrowest(tags[0] if tags else None)
    counts: list[tuple[int, str | None]] = []
    for tag in tags:
        having = select(TermRow.sequence).where(TermRow.kind == "tag", TermRow.term == tag)
        counts.append((_count(session, having), tag))
    if query.namespace is not None:
        counts.append((_count(session, select(RepoRow.id).where(RepoRow.namespace == query.namespace)), None))
    least, narrowest = min(counts, key=lambda one: one[0], default=(_FEW, None))
    few = least < _FEW
    return _Narrowest(narrowest if by_term or few else None, few)


def _count(session: Session, rows: Select[int]) -> int:
    return session.scalar(select(func.count()).select_from(rows.limit(_FEW).subquery())) or 0
