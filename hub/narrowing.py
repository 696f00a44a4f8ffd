"""Which of several conditions leaves the fewest repositories: a list walks through those, and holds the others against each.

SQLite does not know how rare a value is, so they are counted, up to a bound. Builds no lists.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Select, func, select
from sqlalchemy.orm import Session

from adapthub.hub.storage.tables import RepoRow, TermRow

FEW = 500
"""So few repositories are looked at one by one, whatever else they must have."""

Term = tuple[str, str]
"""A `kind` and a `term` of `terms`."""


@dataclass(frozen=True)
class Narrowest:
    """The term that leaves the fewest; None where the namespace does, or there is no condition. `few`: fewer than FEW."""

    term: Term | None = None
    few: bool = False


def narrowest(session: Session, terms: Sequence[Term], namespace: str | None = None) -> Narrowest:
    """Of `terms` and of being in `namespace`."""
    counts: list[tuple[int, Term | None]] = []
    for kind, term in terms:
        having = select(TermRow.sequence).where(TermRow.kind == kind, TermRow.term == term)
        counts.append((_count(session, having), (kind, term)))
    if namespace is not None:
        counts.append((_count(session, select(RepoRow.id).where(RepoRow.namespace == namespace)), None))
    least, found = min(counts, key=lambda one: one[0], default=(FEW, None))
    return Narrowest(found, least < FEW)


def _count(session: Session, rows: Select[int]) -> int:
    return session.scalar(select(func.count()).select_from(rows.limit(FEW).subquery())) or 0
