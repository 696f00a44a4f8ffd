"""Rows into a hub's empty database by bulk: one connection, no checks, no indexes but those of keys until all is there.

Converts values as SQLAlchemy would. Knows tables, not what a hub keeps in them.
"""

from __future__ import annotations

import sqlite3
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache, lru_cache
from typing import Any, cast

from sqlalchemy import JSON, Dialect, TableClause
from sqlalchemy.orm import DeclarativeBase
from sqlalchemy.types import TypeEngine

from adapthub.hub.storage.database import Database
from adapthub.hub.storage.types import Hex, UtcDateTime

# What fails half-way is begun anew, so nothing need be safe on the disk.
_SQLITE = ("journal_mode = OFF", "synchronous = OFF", "locking_mode = EXCLUSIVE", "cache_size = -400000")
_POSTGRES = (
    "SET session_replication_role = replica",  # foreign keys are not looked up
    "SET synchronous_commit = off",
    "SET maintenance_work_mem = '512MB'",
)


@contextmanager
def bulk(database: Database) -> Iterator[Bulk]:
    """Within: rows may be sent, and nobody else may use the database. Its indexes are built on a clean exit."""
    with database.reading() as session:
        engine = session.get_bind()
        dialect, url = engine.dialect, engine.engine.url
    made: Bulk
    if dialect.name == "sqlite":
        connection = sqlite3.connect(str(url.database), isolation_level=None)
        for pragma in _SQLITE:
            connection.execute(f"PRAGMA {pragma}").fetchall()
        found = connection.execute("SELECT name, sql FROM sqlite_master WHERE type = 'index' AND sql <> ''")
        made = _Sqlite(connection, dialect, dict(found.fetchall()))
    else:
        import psycopg

        server = psycopg.connect(url.set(drivername="postgresql").render_as_string(hide_password=False))
        for setting in _POSTGRES:
            server.execute(setting.encode())
        indexes = server.execute(
            "SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = current_schema()"
            " AND indexname NOT IN (SELECT conname FROM pg_constraint)"
        )
        made = _Postgres(server, dialect, dict(indexes.fetchall()))
    try:
        made.drop_indexes()
        yield made
        made.finish()
    finally:
        made.connection.close()


class Bulk(ABC):
    """One connection to a database that is being filled."""

    def __init__(self, connection: Any, dialect: Dialect, indexes: dict[str, str]) -> None:
        self.connection = connection
        self.dialect = dialect
        self._indexes = indexes

    def rows(self, *tables: type[DeclarativeBase] | TableClause) -> list[Rows]:
        """Where to add rows to each of these tables."""
        found = (table if isinstance(table, TableClause) else table.__table__ for table in tables)
        return [Rows(cast("TableClause", table), self.dialect) for table in found]

    @abstractmethod
    def send(self, tables: Sequence[Rows]) -> None:
        """What was added to each since, in one transaction; a later one may point at an earlier one."""

    def execute(self, statement: str) -> None:
        """A statement of its own."""
        self.connection.execute(statement)

    def drop_indexes(self) -> None:
        """Let the tables have none but those of keys."""
        for name in self._indexes:
            self.execute(f'DROP INDEX "{name}"')

    def finish(self) -> None:
        """Build the indexes, and let the database be as a server finds it."""
        for statement in self._indexes.values():
            self.execute(statement)


class _Sqlite(Bulk):
    def send(self, tables: Sequence[Rows]) -> None:
        self.execute("BEGIN")
        for rows in tables:
            marks = ", ".join("?" * len(rows.names))
            self.connection.executemany(
                f"INSERT INTO {rows.name} ({', '.join(rows.names)}) VALUES ({marks})", rows.taken()
            )
        self.execute("COMMIT")

    def finish(self) -> None:
        super().finish()
        self.execute("PRAGMA journal_mode = WAL")


class _Postgres(Bulk):
    def send(self, tables: Sequence[Rows]) -> None:
        for rows in tables:
            with (
                self.connection.cursor() as cursor,
                cursor.copy(f"COPY {rows.name} ({', '.join(rows.names)}) FROM STDIN") as copy,
            ):
                for row in rows.taken():
                    copy.write_row(row)
        self.connection.commit()

    def finish(self) -> None:
        super().finish()
        self.connection.commit()
        self.connection.autocommit = True
        self.execute("VACUUM ANALYZE")  # as its autovacuum does soon


class Rows:
    """Rows of one table on their way to the database."""

    def __init__(self, table: TableClause, dialect: Dialect) -> None:
        self.name = table.name
        self._keys = [column.name for column in table.columns]
        self.names = [f'"{key}"' for key in self._keys]
        self._rows: list[list[Any]] = []
        self._converters: list[tuple[int, Any]] = []
        for place, column in enumerate(table.columns):
            convert = _converter(column.type, dialect)
            if convert is not None:
                self._converters.append((place, convert))

    def add(self, **values: Any) -> None:
        """A row: every column of it."""
        row = [values[key] for key in self._keys]
        for place, convert in self._converters:
            row[place] = convert(row[place])
        self._rows.append(row)

    def taken(self) -> list[list[Any]]:
        """What was added since this was asked last."""
        rows, self._rows = self._rows, []
        return rows


@cache
def _converter(kind: TypeEngine[Any], dialect: Dialect) -> Callable[[Any], Any] | None:
    """What SQLAlchemy makes of values of a type, by a shorter way for the most frequent ones. JSON may be text already."""
    if isinstance(kind, Hex):
        return _bytes
    made = kind.dialect_impl(dialect).bind_processor(dialect)
    if isinstance(kind, UtcDateTime) and made is not None:
        return lru_cache(64)(made)  # neighbours have the same time
    if isinstance(kind, JSON) and made is not None:
        return lambda value: value if isinstance(value, str) else made(value)
    return made


def _bytes(digits: str | None) -> bytes | None:
    return None if digits is None else bytes.fromhex(digits)
