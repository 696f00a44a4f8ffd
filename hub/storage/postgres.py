"""PostgreSQL, as our databases use it: through psycopg, in UTF-8, in one schema of one database.

Readers see one state (REPEATABLE READ); writers lock the rows that they depend on. Making and changing tables is done by one
process at a time, under an advisory lock.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Connection, create_engine, make_url, text
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.pool import NullPool, QueuePool

from adapthub.adapters.errors import MissingDependency, StorageError
from adapthub.hub.storage.retrying import Collided

_COLLIDED = ("40001", "40P01")  # a serialization failure, a deadlock
_TABLES_LOCK = 0x61646170746875  # "adapthu": any number that others do not use


class Postgres:
    """One database. Raises MissingDependency without psycopg."""

    def __init__(self, url: str, *, kept: bool, busy_seconds: float) -> None:
        try:
            import psycopg  # noqa: F401
        except ImportError as error:
            raise MissingDependency(
                "PostgreSQL needs psycopg", hint='Install it: pip install "psycopg[binary]".'
            ) from error
        parsed = make_url(url).set(drivername="postgresql+psycopg")
        self.name = parsed.render_as_string(hide_password=True).replace("+psycopg", "", 1)
        # A connection that the server closed meanwhile is found out and replaced before it is used.
        pool = {"poolclass": QueuePool, "max_overflow": 40, "pool_pre_ping": True}
        milliseconds = int(busy_seconds * 1000)
        engine = create_engine(
            parsed,
            connect_args={
                "connect_timeout": 10,
                "options": f"-c lock_timeout={milliseconds} -c timezone=UTC",
            },
            **(pool if kept else {"poolclass": NullPool}),
        )
        self.readers = engine.execution_options(isolation_level="REPEATABLE READ")
        self.writers = engine.execution_options(isolation_level="READ COMMITTED")

    def is_made(self) -> bool:
        """Whether there is something to look into: a database is made by its administrator."""
        return True

    @contextmanager
    def changing_tables(self) -> Iterator[Connection]:
        """One transaction under a lock that all of our processes take for it."""
        with self.writers.begin() as connection:
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _TABLES_LOCK})
            yield connection

    def storage_error(self, error: Exception, what: str, hint: str) -> StorageError | None:
        """The database away, full or refusing: not what a statement of ours did wrong."""
        away = isinstance(error, DBAPIError) and error.connection_invalidated
        if not (away or isinstance(error, OperationalError | InterfaceError)):
            return None
        cause = str(getattr(error, "orig", error)).strip().splitlines()[0]
        if getattr(getattr(error, "orig", None), "sqlstate", None) in _COLLIDED:
            hint = "Two changes were in each other's way, and this one was not made: try again."
            return Collided(f"the {what} database {self.name} failed: {cause}", hint=hint)
        return StorageError(f"the {what} database {self.name} failed: {cause}", hint=hint)
