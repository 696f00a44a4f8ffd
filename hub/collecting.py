"""Garbage: blobs that no commit names and nobody is about to name. Collected while clients write.

A blob is kept for as long as a commit names it, or was sent for a repository within the grace, or it was uploaded within the
grace. What the blob store has and the database does not know, where that is older than the grace, is first made known, as
uploaded long ago: then one rule deletes all.

Why nothing is lost: a blob's bytes are deleted in a transaction that holds its row, and looks for commits once it does.
Whoever uploads registers the blob after its bytes are stored, which waits for that row, and then looks whether the bytes are
there (`Store.require`); from then on the blob is young. Killed anywhere, it leaves rows without bytes that nothing names.

Xorbs are kept apart from blobs, so that the epoch of uploads stays: uploads that run go on.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice

from sqlalchemy import ColumnElement, Select, delete, or_, select
from sqlalchemy.orm import Session

from adapthub.adapters.errors import InvalidSettings
from adapthub.hub.storage.dialects import insert_new
from adapthub.hub.storage.governance_tables import SignatureRow
from adapthub.hub.storage.retrying import retried
from adapthub.hub.storage.tables import BlobRow, FileRow
from adapthub.hub.storage.upkeep_tables import PendingRow, SentRow
from adapthub.hub.store import Store

GRACE = timedelta(days=1)
_LONG_AGO = datetime(1970, 1, 1, tzinfo=UTC)
_AT_ONCE = 100  # while one batch is deleted, writers wait


@dataclass(frozen=True)
class Collected:
    """What a collection deleted, or would: blobs, and their bytes. `strays` of them were unknown to the database."""

    blobs: int
    bytes: int
    strays: int


def collect(store: Store, *, grace: timedelta = GRACE, dry_run: bool = False) -> Collected:
    """Delete the garbage of a hub. `grace`: how long an upload may wait for its commit; `dry_run`: only count.

    Raises InvalidSettings for a negative grace, StorageError.
    """
    if grace < timedelta(0):
        raise InvalidSettings(f"a grace of {grace} is none", hint="Give 0 or more.")
    before = datetime.now(UTC) - grace
    strays = _strays(store, before)
    if dry_run:
        with store.database.reading() as session:
            found = [(row.sha256, row.size) for row in session.execute(_garbage(before))]
        return Collected(
            len(found) + len(strays), sum(size for _, size in found) + sum(strays.values()), len(strays)
        )
    store.blobs.discard_abandoned()
    with store.database.writing() as session:
        for sent in (SentRow, PendingRow):
            session.execute(delete(sent).where(sent.sent < before))
        if strays:
            rows = [
                {"sha256": sha256, "size": size, "stored": _LONG_AGO}
                for sha256, size in sorted(strays.items())
            ]
            insert_new(session, BlobRow, rows)
    blobs = size = 0
    for batch in _batches(store, before):
        deleted = _collect(store, batch, before)
        blobs += len(deleted)
        size += sum(deleted)
    return Collected(blobs, size, len(strays))


@retried
def _collect(store: Store, keys: Sequence[int], before: datetime) -> list[int]:
    with store.database.writing() as session:
        return _delete(session, store, keys, _garbage(before))


@retried
def discard(store: Store, sha256s: Sequence[str], *, before: datetime) -> None:
    """Delete those of the blobs at once that nothing names, no repository was sent and nobody uploaded since `before`."""
    if not sha256s:
        return
    with store.database.writing() as session:
        keys = session.scalars(select(BlobRow.id).where(BlobRow.sha256.in_(sha256s))).all()
        _delete(session, store, keys, _unnamed(before).where(~_sent_since(_LONG_AGO)))


def _strays(store: Store, before: datetime) -> dict[str, int]:
    """The sizes of blobs that are there since before then and that the database does not know."""
    found: dict[str, int] = {}
    old = (one for one in store.blobs.stored() if one.modified < before)
    while batch := list(islice(old, 1000)):
        known = store.known(one.sha256 for one in batch)
        found |= {one.sha256: one.size for one in batch if one.sha256 not in known}
    return found


def _batches(store: Store, before: datetime) -> Iterator[list[int]]:
    """The keys of what seems to be garbage, some at a time."""
    last = 0
    while True:
        with store.database.reading() as session:
            query = _garbage(before).where(BlobRow.id > last).order_by(BlobRow.id).limit(_AT_ONCE)
            keys = [row.id for row in session.execute(query)]
        if not keys:
            return
        yield keys
        last = keys[-1]


def _delete(session: Session, store: Store, keys: Sequence[int], garbage: Select[int, str, int]) -> list[int]:
    """Delete those of the blobs that still are `garbage` once their rows are locked; their sizes."""
    ordered = select(BlobRow.id).where(BlobRow.id.in_(keys)).order_by(BlobRow.sha256)  # as `register` does
    session.execute(ordered.with_for_update())
    rows = session.execute(garbage.where(BlobRow.id.in_(keys))).all()
    gone = [row.id for row in rows]
    for sent in (SentRow, PendingRow):
        session.execute(delete(sent).where(sent.blob_id.in_(gone)))
    session.execute(delete(BlobRow).where(BlobRow.id.in_(gone)))
    store.blobs.delete([row.sha256 for row in rows])  # last: what refers to a row keeps the bytes too
    return [row.size for row in rows]


def _garbage(before: datetime) -> Select[int, str, int]:
    return _unnamed(before).where(~_sent_since(before))


def _unnamed(before: datetime) -> Select[int, str, int]:
    return select(BlobRow.id, BlobRow.sha256, BlobRow.size).where(BlobRow.stored < before, ~_named())


def _named() -> ColumnElement[bool]:
    in_a_tree = select(FileRow.blob_id).where(FileRow.blob_id == BlobRow.id).exists()
    signature = select(SignatureRow.blob_id).where(SignatureRow.blob_id == BlobRow.id).exists()
    return or_(in_a_tree, signature)


def _sent_since(before: datetime) -> ColumnElement[bool]:
    sent, pending = (
        select(rows.blob_id).where(rows.blob_id == BlobRow.id, rows.sent >= before).exists()
        for rows in (SentRow, PendingRow)
    )
    return or_(sent, pending)
