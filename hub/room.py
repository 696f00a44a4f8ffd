"""How much of one kind a namespace may have: what is read at a request, or written at every commit, is to stay small."""

from __future__ import annotations

from sqlalchemy import func, select
from sqlalchemy.orm import InstrumentedAttribute, Session

from adapthub.adapters.errors import Conflict

MOST = 1000
"""Members of a namespace, and its keys, and its gates."""


def check_room(
    session: Session,
    column: InstrumentedAttribute[str],
    namespace: str,
    what: str,
    *,
    most: int | None = None,
) -> None:
    """Raises Conflict where `most` rows, MOST if None, have this `namespace` in `column`; `what` these are."""
    most = MOST if most is None else most
    count = select(func.count()).where(column == namespace)
    if session.scalars(count).one() >= most:
        raise Conflict(
            f"{namespace} has {most:,} {what}, which is as many as a namespace may have",
            hint="Remove one first.",
        )
