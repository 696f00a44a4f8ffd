"""Which of several conditions leaves the fewest repositories: where those are few, a list walks through them, and holds the
other conditions against each.

SQLite does not know how rare a value is, so they are counted, up to a bound. Builds no lists.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from adapthub.hub.conditions import Condition

FEW = 2000
"""So few repositories are looked at one by one, whatever else they must have. With more, a list goes through all in its own
order until the page is full: one in fifty of 100,000 fits then, and a page of 100 is full after 5,000."""


class Narrowest(NamedTuple):
    """The condition that leaves the fewest, and whether those are few."""

    condition: Condition
    few: bool


def narrowest(session: Session, conditions: Sequence[Condition]) -> Narrowest:
    """Of `conditions`, of which there is one at least."""
    counts = [(_count(session, condition), place) for place, condition in enumerate(conditions)]
    least, place = min(counts)
    return Narrowest(conditions[place], least < FEW)


def _count(session: Session, condition: Condition) -> int:
    if condition.is_common:
        return FEW
    rows = condition.rows().limit(FEW).subquery()
    return session.scalar(select(func.count()).select_from(rows)) or 0
