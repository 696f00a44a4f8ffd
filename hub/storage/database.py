"""A database of ours: opened, checked, migrated, and used in transactions that happen whole or not at all.

SQLite in a file, or PostgreSQL by its URL: `sqlite` and `postgres` know what differs. A commit that returned is on the disk.
A database may be used from threads and across forks; one that is `kept` holds connections open, until `close`, which saves a
server the making of one for every request. Knows no tables and no queries.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from sqlalchemy import Connection, Engine, MetaData, Table, insert, inspect, select, update
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from adapthub.adapters.errors import AdaptHubError, InvalidSettings, StorageError
from adapthub.adapters.home import unusable

BUSY_SECONDS = 30.0
_TRY_AGAIN = "Check free space and permissions, then try again."


@dataclass(frozen=True)
class Schema:
    """The tables of one kind of database. `what` it is of, in a word ("hub"); `versions`: its table of one row whose column
    `version` is the `number` of these tables; `private`: whether its file is for its owner's eyes alone; `upgrade`: brings
    tables of schema `number` - 1 or older (its second argument) up to `number`, None where there is nothing to upgrade."""

    what: str
    metadata: MetaData
    versions: Table
    number: int
    private: bool = False
    upgrade: Callable[[Connection, int], None] | None = None


class Backend(Protocol):
    """What SQLite and PostgreSQL do differently. `name` is how messages call the database."""

    @property
    def name(self) -> str: ...
    @property
    def readers(self) -> Engine: ...
    @property
    def writers(self) -> Engine: ...

    def is_made(self) -> bool:
        """Whether there is something to look into."""
        ...

    def changing_tables(self) -> AbstractContextManager[Connection]:
        """One transaction, alone among all processes that would make or change tables."""
        ...

    def storage_error(self, error: SQLAlchemyError | Exception, what: str, hint: str) -> StorageError | None:
        """The error to raise for one of the database's own; None where it is a defect of ours."""
        ...


class Database:
    """The tables of one `schema`: in the SQLite file at `where`, a Path, or in the PostgreSQL at `where`, a URL.

    `busy_seconds`: that a writer waits for others, 30 if None. Raises StorageError when the database cannot be used or is of
    another schema, InvalidSettings for a URL that is none of ours.
    """

    def __init__(
        self, where: Path | str, schema: Schema, *, kept: bool = False, busy_seconds: float | None = None
    ) -> None:
        self._schema = schema
        seconds = BUSY_SECONDS if busy_seconds is None else busy_seconds
        self._backend = _backend(where, kept=kept, busy_seconds=seconds, private=schema.private)
        with self._storage_errors(_TRY_AGAIN):
            if not self._is_ready():
                self._prepare()

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """One consistent view of the database."""
        with self._storage_errors(_TRY_AGAIN), Session(self._backend.readers) as session:
            yield session

    @contextmanager
    def writing(self) -> Iterator[Session]:
        """One transaction: committed on a clean exit, else as if it never was. Alone among writers in SQLite; in PostgreSQL
        two may run at once, so whoever depends on a row locks it (`with_for_update`). Raises Collided (retrying) where two
        locked rows in different orders."""
        with (
            self._storage_errors(f"Nothing was changed. {_TRY_AGAIN}"),
            Session(self._backend.writers) as session,
            session.begin(),
        ):
            yield session

    def close(self) -> None:
        """Let go of connections that are kept. Idempotent."""
        self._backend.readers.dispose()

    def _is_ready(self) -> bool:
        if not self._backend.is_made():
            return False
        with self._backend.readers.connect() as connection:
            return self._found(connection) == self._schema.number

    def _found(self, connection: Connection) -> int | None:
        """The number of the schema that is there, which is this one or can be upgraded to it; None where no table is."""
        tables = inspect(connection).get_table_names()
        if not tables:
            return None
        if self._schema.versions.name not in tables:
            raise StorageError(
                f"{self._backend.name} is a database, but not AdaptHub's {self._schema.what} database"
            )
        found: int | None = connection.scalar(select(self._schema.versions.c.version))
        number = self._schema.number
        if found != number and not (self._schema.upgrade and found and found < number):
            raise StorageError(
                f"{self._backend.name} has {self._schema.what} schema {found}, and this version of AdaptHub reads"
                f" schema {number}",
                hint="Use the version of AdaptHub that wrote it, or another ADAPTHUB_HOME.",
            )
        return found

    def _prepare(self) -> None:
        schema = self._schema
        with self._backend.changing_tables() as connection:
            found = self._found(connection)  # another process may have been faster
            if found is None:
                schema.metadata.create_all(connection)
                connection.execute(insert(schema.versions).values(version=schema.number))
            elif found != schema.number and schema.upgrade is not None:
                schema.upgrade(connection, found)
                connection.execute(update(schema.versions).values(version=schema.number))

    @contextmanager
    def _storage_errors(self, hint: str) -> Iterator[None]:
        try:
            yield
        except AdaptHubError:
            raise
        except OSError as error:
            raise unusable(Path(self._backend.name).parent, error) from error
        except Exception as error:
            known = self._backend.storage_error(error, self._schema.what, hint)
            if known is None:
                raise
            raise known from error


def _backend(where: Path | str, *, kept: bool, busy_seconds: float, private: bool) -> Backend:
    if isinstance(where, Path):
        from adapthub.hub.storage.sqlite import Sqlite

        return Sqlite(where, kept=kept, busy_seconds=busy_seconds, private=private)
    if where.startswith(("postgresql://", "postgres://")):
        from adapthub.hub.storage.postgres import Postgres

        return Postgres(where, kept=kept, busy_seconds=busy_seconds)
    raise InvalidSettings(
        f"{where!r} is not the URL of a database that AdaptHub uses",
        hint="Write postgresql://user@host/database, or leave it out for SQLite in the data folder.",
    )
