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
from adapthub.hub.storage.dialects import gathered

FEW = 2000
"""So few repositories are looked at one by one, whatever else they must have. With more, a list goes through all in its own
order until the page is full: one in fifty of 100,000 fits then, and a page of 100 is full after 5,000."""


class Narrowest(NamedTuple):
    """The condition that leaves the fewest, and their keys (`Condition.rows`); None where those are not few."""

    condition: Condition
    keys: Sequence[int] | None


def narrowest(session: Session, conditions: Sequence[Condition]) -> Narrowest:
    """Of `conditions`, of which there is one at least; of several that leave the same number, the first."""
    found = Narrowest(conditions[0], None)
    for condition in conditions:
        # What leaves as many as another is not looked up to its end.
        keys = _fewer(session, condition, FEW if found.keys is None else len(found.keys))
        if keys is not None:
            found = Narrowest(condition, keys)
    return found


def _fewer(session: Session, condition: Condition, most: int) -> Sequence[int] | None:
    """The keys, where those are fewer than `most`."""
    if condition.is_common:
        return None
    keys = gathered(session, condition.rows().limit(most))
    return keys if len(keys) < most else None
