"""SQLite, as our databases use it.

In WAL mode, so readers never wait for a writer; writers queue. A commit is on the disk when it returns (synchronous=FULL).
Where connections are not kept every call opens its own. Not for network file systems, which lack the shared memory that WAL
needs.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sqlalchemy import URL, Connection, create_engine, event
from sqlalchemy.exc import DatabaseError
from sqlalchemy.pool import ConnectionPoolEntry, NullPool, QueuePool

from adapthub.adapters.errors import StorageError
from adapthub.adapters.home import make_folder, unusable

_UNOPENED = (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN)  # reading writes too: WAL's shared memory


class Sqlite:
    """One file. `private`: whether it is for its owner's eyes alone, from when its tables are made or upgraded."""

    def __init__(self, path: Path, *, kept: bool, busy_seconds: float, private: bool) -> None:
        self._path = path
        self._private = private
        self.name = str(path)
        pool = {"poolclass": QueuePool, "max_overflow": -1} if kept else {"poolclass": NullPool}
        self.readers = create_engine(
            URL.create("sqlite+pysqlite", database=str(path)),
            connect_args={"timeout": busy_seconds},
            **pool,
        )
        self.writers = self.readers.execution_options(writes=True)
        event.listen(self.readers, "connect", _configure)
        event.listen(self.readers, "begin", _begin)

    def is_made(self) -> bool:
        """Whether the file is there."""
        return self._path.exists()

    @contextmanager
    def changing_tables(self) -> Iterator[Connection]:
        """One transaction under the file's lock: turning WAL on does not wait for others by itself."""
        from filelock import FileLock

        make_folder(self._path.parent)
        with FileLock(self._path.with_suffix(".lock")):
            if self._private:  # SQLite gives its files beside it the same mode
                self._path.touch(0o600)
                with suppress(PermissionError):  # an older one, of somebody else
                    self._path.chmod(0o600)
            with self.readers.connect() as connection:
                connection.connection.cursor().execute("PRAGMA journal_mode = WAL")  # in no transaction
            with self.writers.begin() as connection:
                yield connection

    def storage_error(self, error: Exception, what: str, hint: str) -> StorageError | None:
        """What the disk refused. A broken constraint, say, is a defect of ours and not of the disk."""
        cause = error.orig if isinstance(error, DatabaseError) else error
        if type(cause) not in (sqlite3.OperationalError, sqlite3.DatabaseError):
            return None
        # The low byte is the primary code; an error that sqlite3 itself raises has none.
        if getattr(cause, "sqlite_errorcode", 0) & 0xFF in _UNOPENED:
            return unusable(self._path.parent, OSError(str(cause)))
        return StorageError(f"the {what} database {self._path} failed: {cause}", hint=hint)


def _configure(connection: sqlite3.Connection, _entry: ConnectionPoolEntry) -> None:
    connection.isolation_level = None  # transactions begin where we say so, and cover CREATE TABLE too
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("PRAGMA synchronous = FULL")


def _begin(connection: Connection) -> None:
    # A writer takes its lock at once: a transaction that began by reading could not wait for another writer.
    writes = connection.get_execution_options().get("writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
