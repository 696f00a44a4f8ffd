"""Which of several conditions leaves the fewest repositories: where those are few, a list walks through them, and holds the
other conditions against each.

SQLite does not know how rare a value is, so they are looked up, up to a bound; those that were found so are not looked up
again, which for text costs as much as the page. Builds no lists.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy.orm import Session

from adapthub.hub.conditions import Condition

FEW = 2000
"""So few repositories are looked at one by one, whatever else they must have. With more, a list goes through all in its own
order until the page is full: one in fifty of 100,000 fits then, and a page of 100 is full after 5,000."""


class Narrowest(NamedTuple):
    """The condition that leaves the fewest, and their keys (`Condition.rows`); None where those are not few."""

    condition: Condition
    keys: Sequence[int] | None


def narrowest(session: Session, conditions: Sequence[Condition]) -> Narrowest:
    """Of `conditions`, of which there is one at least."""
    found = [(_few(session, condition), condition) for condition in conditions]
    keys, condition = min(found, key=lambda one: FEW if one[0] is None else len(one[0]))
    return Narrowest(condition, keys)


def _few(session: Session, condition: Condition) -> Sequence[int] | None:
    if condition.is_common:
        return None
    keys = session.scalars(condition.rows().limit(FEW)).all()
    return keys if len(keys) < FEW else None
