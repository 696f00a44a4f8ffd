"""A hub's whole contents in one folder or one tar file, taken while clients write, and put back.

    tables.jsonl       a line about the hub, then a line a row: [table, values]
    blobs/3f/3f5a…     every blob that a commit of those rows names

The rows are one state of the database; blobs never change, so what those rows name is what is copied. A folder that has a
backup already gets what is new. The lines know nothing of SQLite or PostgreSQL: a backup of one can be restored into the
other. Uploads, logins and webhooks' deliveries that run are not part of a backup: a copy of a hub tells nobody what happened
in the hub. Tokens are, by their hashes, and webhooks' secrets: a backup is for its owner's eyes alone.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

from sqlalchemy import Column, LargeBinary, Table, exists, func, insert, select, text
from sqlalchemy.orm import Session

from adapthub.adapters.errors import Conflict, IntegrityError, InvalidData
from adapthub.hub import epoch
from adapthub.hub.backup_files import TABLES, Reading, Writing, open_backup, write_backup
from adapthub.hub.storage.governance_tables import DeliveryRow
from adapthub.hub.storage.schema import HUB
from adapthub.hub.storage.tables import SCHEMA, SEQUENCE, BlobRow, FileRow, RepoRow
from adapthub.hub.storage.text import put_kept, text_index
from adapthub.hub.storage.types import UtcDateTime
from adapthub.hub.storage.upkeep_tables import EpochRow, LoginRow, PendingRow, SecretRow, SentRow
from adapthub.hub.store import Store

_KIND = "adapthub hub backup"
_TEXT = "repo_text"
# What uploads, logins and deliveries that run have, and what addresses are signed with: they begin anew, or not at all,
# where a hub is restored.
_PASSING = {
    *(row.__tablename__ for row in (SentRow, PendingRow, LoginRow, EpochRow, DeliveryRow, SecretRow)),
    HUB.versions.name,
}
_AT_ONCE = 1000
_READ = (2, SCHEMA)  # schema 3 is another than 2 in what passes alone


@dataclass(frozen=True)
class Saved:
    """What a backup has: repositories, blobs, and the blobs' bytes."""

    repos: int
    blobs: int
    bytes: int


def backup(store: Store, target: Path) -> Saved:
    """Save a hub into the folder `target`, or into a file where that ends in `.tar`: there once it is whole.

    Raises StorageError where it cannot be written, IntegrityError for a blob that is lost or damaged, Conflict for a folder
    that has something else.
    """
    with write_backup(target) as writing, store.database.reading() as session:
        writing.tables(_lines(session))
        blobs = size = 0
        for sha256, length in session.execute(_named()).yield_per(_AT_ONCE):
            _copy(store, writing, sha256, length)
            blobs += 1
            size += length
        repos = session.scalar(select(func.count()).select_from(RepoRow)) or 0
    return Saved(repos, blobs, size)


def restore(store: Store, source: Path) -> Saved:
    """Put a backup into an empty hub: blobs first, each against its digest, then all rows at once. The epoch of uploads is
    another than any before. Killed anywhere, the hub is empty or whole, and the same can be done again.

    Raises Conflict for a hub that is not empty, InvalidData or IntegrityError for a backup that is not whole.
    """
    with store.database.reading() as session:
        _require_empty(session)
    with open_backup(source) as reading:
        blobs = size = 0
        for sha256, piece in reading.blobs():
            with store.blobs.incoming() as incoming:
                for data in piece:
                    incoming.write(data)
                incoming.keep(sha256, origin=f"{source}: a blob")
                size += incoming.size
            blobs += 1
        with store.database.writing() as session:
            _require_empty(session)
            before = _insert_all(session, reading)
            repos = session.scalar(select(func.count()).select_from(RepoRow)) or 0
            lost = [sha256 for sha256, _ in session.execute(_named()) if store.blobs.size(sha256) is None]
            if lost:
                raise IntegrityError(f"{source} lacks the blob {lost[0]}", hint="Use another backup.")
            epoch.raise_epoch(session, above=before)
    return Saved(repos, blobs, size)


def _copy(store: Store, writing: Writing, sha256: str, size: int) -> None:
    try:
        writing.blob(sha256, size, store.blobs)
    except IntegrityError as error:
        hint = "Back up again, if adapt hub gc ran meanwhile; else see adapt hub check."
        raise IntegrityError(error.message, hint=hint) from error


def _named() -> Any:
    return (
        select(BlobRow.sha256, BlobRow.size)
        .where(select(FileRow.blob_id).where(FileRow.blob_id == BlobRow.id).exists())
        .order_by(BlobRow.id)
    )


def _lines(session: Session) -> Iterator[str]:
    about = {"kind": _KIND, "schema": SCHEMA, "made": datetime.now(UTC).isoformat()}
    yield json.dumps({**about, "epoch": epoch.recorded(session)})
    for table in _tables():
        query = select(table).order_by(*table.primary_key)
        if table.name == BlobRow.__tablename__:
            query = query.where(select(FileRow.blob_id).where(FileRow.blob_id == table.c.id).exists())
        for row in session.execute(query.execution_options(yield_per=_AT_ONCE)):
            yield json.dumps([table.name, [_plain(value) for value in row]])
    index = text_index(session)
    for row in session.execute(select(index.key, index.text).execution_options(yield_per=_AT_ONCE)):
        yield json.dumps([_TEXT, list(row)])


def _tables() -> list[Table]:
    """In an order in which no row comes before what it refers to."""
    return [table for table in HUB.metadata.sorted_tables if table.name not in _PASSING]


def _plain(value: Any) -> Any:
    """A column's value as JSON has it."""
    match value:
        case datetime():
            return value.isoformat()
        case bytes():
            return base64.b64encode(value).decode()
        case _:
            return value


def _value(column: Column[Any], value: Any) -> Any:
    """The value of a column that `_plain` made JSON of: what it was, the column says, and not what it looks like."""
    if value is None:
        return None
    if isinstance(column.type, UtcDateTime):
        return datetime.fromisoformat(value)
    return base64.b64decode(value) if isinstance(column.type, LargeBinary) else value


def _insert_all(session: Session, reading: Reading) -> int:
    """Insert every row; the epoch that the hub was in."""
    tables = {table.name: table for table in _tables()}
    lines = reading.tables()
    before = _epoch_of(next(lines, ""))
    rows = (json.loads(line) for line in lines)
    while batch := list(islice(rows, _AT_ONCE)):
        for name in dict.fromkeys(name for name, _ in batch):
            values = [row for found, row in batch if found == name]
            if name == _TEXT:
                put_kept(session, values)
            elif name in tables:
                columns = tables[name].columns.values()
                session.execute(
                    insert(tables[name]),
                    [
                        {
                            column.key: _value(column, value)
                            for column, value in zip(columns, row, strict=True)
                        }
                        for row in values
                    ],
                )
            else:
                raise InvalidData(f"the backup has a table {name!r} that this version of AdaptHub has not")
    _count_on(session, list(tables.values()))
    return before


def _epoch_of(line: str) -> int:
    """The epoch that the first line gives, if the backup is of this schema."""
    try:
        about = json.loads(line)
        kind, schema, before = about["kind"], about["schema"], int(about["epoch"])
    except (ValueError, TypeError, KeyError) as error:
        raise InvalidData(f"{TABLES} does not begin as a backup of a hub does") from error
    if kind != _KIND or schema not in _READ:
        raise InvalidData(
            f"the backup is of schema {schema}, and this version of AdaptHub has schema {SCHEMA}",
            hint="Restore it with the version of AdaptHub that made it.",
        )
    return before


def _count_on(session: Session, tables: list[Table]) -> None:
    """Let PostgreSQL count its keys on from the greatest; SQLite does so by itself."""
    if session.get_bind().dialect.name != "postgresql":
        return
    for table in tables:
        key = table.autoincrement_column
        greatest = None if key is None else session.scalar(select(func.max(key)))
        if key is not None and greatest is not None:
            sequence = func.pg_get_serial_sequence(table.name, key.name)
            session.execute(select(func.setval(sequence, greatest)))
    greatest = session.scalar(select(func.max(RepoRow.sequence)))
    if greatest is not None:
        session.execute(text(f"SELECT setval('{SEQUENCE.name}', :greatest)"), {"greatest": greatest})


def _require_empty(session: Session) -> None:
    for table in _tables():
        if session.scalar(select(exists(select(1).select_from(table)))):
            raise Conflict(
                f"this hub is not empty (it has {table.name}), and a restore would mix it with the backup",
                hint="Restore into another --data folder (or database), then serve that one.",
            )
