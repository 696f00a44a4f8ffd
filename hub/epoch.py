"""The epoch of uploads: a number that is raised whenever the hub may hold less than its clients believe.

Clients that upload by Xet remember what the hub has, by an address with the epoch in it. It is the time of the last raise at
least: a hub that was wiped and begun anew, at the same address, does not begin where the old one did.
"""

from __future__ import annotations

import time

from sqlalchemy.orm import Session

from adapthub.hub.storage.database import Database
from adapthub.hub.storage.dialects import insert_new
from adapthub.hub.storage.upkeep_tables import EpochRow

_THE_ONE = 1


def current(database: Database) -> int:
    """The epoch, which begins when it is first asked for."""
    with database.reading() as session:
        number = recorded(session)
    if number:
        return number
    with database.writing() as session:
        insert_new(session, EpochRow, [{"id": _THE_ONE, "number": int(time.time())}])
        return session.get_one(EpochRow, _THE_ONE).number


def recorded(session: Session) -> int:
    """The epoch, 0 where it has not begun."""
    row = session.get(EpochRow, _THE_ONE)
    return 0 if row is None else row.number


def raise_epoch(session: Session, *, above: int = 0) -> int:
    """Begin another epoch, greater than `above` too, in the caller's transaction."""
    insert_new(session, EpochRow, [{"id": _THE_ONE, "number": 0}])
    row = session.get_one(EpochRow, _THE_ONE, with_for_update=True)
    row.number = max(row.number + 1, above + 1, int(time.time()))
    return row.number
