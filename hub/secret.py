"""What the servers of a hub sign addresses and uploads with: one secret, in the database that they share.

No part of backups.
"""

from __future__ import annotations

import secrets

from sqlalchemy import select

from adapthub.hub.storage.database import Database
from adapthub.hub.storage.dialects import insert_new
from adapthub.hub.storage.upkeep_tables import SecretRow

_THE_ONE = 1
_BYTES = 32


def secret_of(database: Database) -> bytes:
    """The secret, made when it is first asked for: of two servers that ask at once, one is first."""
    find = select(SecretRow.secret).where(SecretRow.id == _THE_ONE)
    with database.reading() as session:
        found = session.scalar(find)
    if found is not None:
        return found
    with database.writing() as session:
        insert_new(session, SecretRow, [{"id": _THE_ONE, "secret": secrets.token_bytes(_BYTES)}])
        return session.scalars(find).one()
