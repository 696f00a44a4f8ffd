"""A SQLite database of ours: opened, checked, and used in transactions that happen whole or not at all.

SQLite in WAL mode, so readers never wait for a writer; writers queue for up to 30 s, or as long as the opener says. A commit
is on the disk when it returns (synchronous=FULL). Every call opens its own connection, so a database may be used from
threads and across forks; one that is `kept` holds connections open instead, until `close`, which saves a server that writes
all the time the clean-up behind every last one. Not for network file systems, which lack the shared memory that WAL needs.
Knows no tables and no queries.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import (
    URL,
    Connection,
    MetaData,
    Table,
    create_engine,
    event,
    insert,
    inspect,
    select,
)
from sqlalchemy.exc import DatabaseError
from sqlalchemy.orm import Session
from sqlalchemy.pool import ConnectionPoolEntry, NullPool, QueuePool

from adapthub.adapters.errors import AdaptHubError, StorageError
from adapthub.adapters.home import make_folder, unusable

BUSY_SECONDS = 30.0
_TRY_AGAIN = "Check free space and permissions, then try again."
_UNOPENED = (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN)  # reading writes too: WAL's shared memory


@dataclass(frozen=True)
class Schema:
    """The tables of one kind of database. `what` it is of, in a word ("hub"); `versions`: its table of one row whose column
    `version` is the `number` of these tables; `private`: whether a new file is for its owner's eyes alone."""

    what: str
    metadata: MetaData
    versions: Table
    number: int
    private: bool = False


class Database:
    """The tables of one `schema` in one file. `busy_seconds`: that a writer waits for others, 30 if None.

    Raises StorageError when the file cannot be used or is of another schema.
    """

    def __init__(
        self, path: Path, schema: Schema, *, kept: bool = False, busy_seconds: float | None = None
    ) -> None:
        self.path = path
        self._schema = schema
        url = URL.create("sqlite+pysqlite", database=str(path))
        seconds = BUSY_SECONDS if busy_seconds is None else busy_seconds
        self._engine = create_engine(
            url, poolclass=QueuePool if kept else NullPool, connect_args={"timeout": seconds}
        )
        self._writer = self._engine.execution_options(writes=True)
        event.listen(self._engine, "connect", _configure)
        event.listen(self._engine, "begin", _begin)
        with self._storage_errors(_TRY_AGAIN):
            if not self._is_ready():
                self._create()

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """One consistent view of the database."""
        with self._storage_errors(_TRY_AGAIN), Session(self._engine) as session:
            yield session

    @contextmanager
    def writing(self) -> Iterator[Session]:
        """One transaction, alone among writers: committed on a clean exit, else as if it never was."""
        with (
            self._storage_errors(f"Nothing was changed. {_TRY_AGAIN}"),
            Session(self._writer) as session,
            session.begin(),
        ):
            yield session

    def close(self) -> None:
        """Let go of connections that are kept. Idempotent."""
        self._engine.dispose()

    def _is_ready(self) -> bool:
        if not self.path.exists():
            return False
        with self._engine.connect() as connection:
            tables = inspect(connection).get_table_names()
            if not tables:
                return False
            if self._schema.versions.name not in tables:
                raise StorageError(
                    f"{self.path} is a database, but not AdaptHub's {self._schema.what} database"
                )
            found = connection.scalar(select(self._schema.versions.c.version))
        if found != self._schema.number:
            raise StorageError(
                f"{self.path} has {self._schema.what} schema {found}, and this version of AdaptHub reads schema"
                f" {self._schema.number}",
                hint="Use the version of AdaptHub that wrote it, or another ADAPTHUB_HOME.",
            )
        return True

    def _create(self) -> None:
        from filelock import FileLock

        make_folder(self.path.parent)
        with FileLock(self.path.with_suffix(".lock")):  # turning WAL on does not wait for others by itself
            if self._is_ready():
                return
            if (
                self._schema.private
            ):  # before there is anything in it; SQLite gives its files beside it the same mode
                self.path.touch(0o600)
            with self._engine.connect() as connection:
                connection.connection.cursor().execute("PRAGMA journal_mode = WAL")  # in no transaction
            with self._writer.begin() as connection:
                self._schema.metadata.create_all(connection)
                connection.execute(insert(self._schema.versions).values(version=self._schema.number))

    @contextmanager
    def _storage_errors(self, hint: str) -> Iterator[None]:
        try:
            yield
        except (DatabaseError, sqlite3.DatabaseError) as error:
            cause = error.orig if isinstance(error, DatabaseError) else error
            if type(cause) not in (sqlite3.OperationalError, sqlite3.DatabaseError):
                raise  # a broken constraint, say, is a defect of ours and not of the disk
            # The low byte is the primary code; an error that sqlite3 itself raises has none.
            if getattr(cause, "sqlite_errorcode", 0) & 0xFF in _UNOPENED:
                raise unusable(self.path.parent, OSError(str(cause))) from error
            raise StorageError(
                f"the {self._schema.what} database {self.path} failed: {cause}", hint=hint
            ) from error
        except OSError as error:
            if isinstance(error, AdaptHubError):  # of which some are OSErrors too
                raise
            raise unusable(self.path.parent, error) from error


def _configure(connection: sqlite3.Connection, _entry: ConnectionPoolEntry) -> None:
    connection.isolation_level = None  # transactions begin where we say so, and cover CREATE TABLE too
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("PRAGMA synchronous = FULL")


def _begin(connection: Connection) -> None:
    # A writer takes its lock at once: a transaction that began by reading could not wait for another writer.
    writes = connection.get_execution_options().get("writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
