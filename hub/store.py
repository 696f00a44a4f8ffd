"""One hub's database and blob store, as the embedded hub and the server both use them.

Blobs come first: they are whole and on the disk, and known to the database, before a commit names them. Knows no
repositories: `repos`, `commits` and their siblings take a Store.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.orm import Session

from adapthub.adapters.errors import StorageError
from adapthub.hub.storage.blobs import Blobs
from adapthub.hub.storage.database import Database
from adapthub.hub.storage.dialects import insert_or_update
from adapthub.hub.storage.places import open_blobs
from adapthub.hub.storage.retrying import retried
from adapthub.hub.storage.schema import HUB
from adapthub.hub.storage.tables import BlobRow
from adapthub.hub.trees import Blob

DATABASE = "hub.sqlite3"
BLOBS = "blobs"


@dataclass(frozen=True)
class Store:
    """Where one hub is."""

    database: Database
    blobs: Blobs

    @classmethod
    def open(
        cls, root: Path, *, database: str | None = None, blobs: str | None = None, kept: bool = False
    ) -> Store:
        """The hub in the folder `root`, made on first use: `hub.sqlite3` and `blobs/`, unless they are elsewhere: `database`
        is PostgreSQL's URL, `blobs` that of a folder or of S3. `kept`: hold connections until the database is closed.

        Raises StorageError where a part cannot be used, InvalidSettings for a URL that is none of ours.
        """
        return cls(
            Database(root / DATABASE if database is None else database, HUB, kept=kept),
            open_blobs(root / BLOBS if blobs is None else blobs),
        )

    def register(self, blobs: Iterable[Blob]) -> None:
        """Let the database know of bytes that the blob store holds now: they are not garbage for a while (`collecting`).

        Raises StorageError where a collection was faster.
        """
        found = list(blobs)
        if not found:
            return
        self._register(found)
        self.require(found)

    @retried
    def _register(self, blobs: Sequence[Blob]) -> None:
        with self.database.writing() as session:
            register(session, blobs)

    def require(self, blobs: Iterable[Blob]) -> None:
        """Raises StorageError for a blob, registered before this, whose bytes are not there."""
        for blob in blobs:
            # A collection may have deleted what was there when these bytes came; now that they are known, none does.
            if self.blobs.size(blob.sha256) is None:
                raise StorageError(
                    f"the blob {blob.sha256} was removed as garbage while it was uploaded",
                    hint="Upload it again.",
                )

    def known(self, sha256s: Iterable[str]) -> Mapping[str, Blob]:
        """Those of the blobs that the database knows, by sha256."""
        wanted = list(sha256s)
        with self.database.reading() as session:
            rows = session.execute(select(BlobRow.sha256, BlobRow.size).where(BlobRow.sha256.in_(wanted)))
            return {sha256: Blob(sha256, size) for sha256, size in rows}

    def read(self, blob: Blob, offset: int, length: int) -> bytes:
        """So many bytes of a blob. Raises BlobLost where the store has lost it."""
        return self.blobs.read(blob.sha256, offset, length)


@dataclass(frozen=True)
class ReadAhead(Store):
    """A store some of whose blobs are in memory, by sha256, for a transaction that is not to wait for others."""

    ahead: Mapping[str, bytes]

    def read(self, blob: Blob, offset: int, length: int) -> bytes:
        """As `Store.read`."""
        data = self.ahead.get(blob.sha256)
        return super().read(blob, offset, length) if data is None else data[offset : offset + length]


def register(session: Session, blobs: Iterable[Blob]) -> None:
    """As `Store.register`, in the caller's transaction, who then calls `Store.require`."""
    now = datetime.now(UTC)
    rows = [
        {"sha256": blob.sha256, "size": blob.size, "stored": now}
        for blob in sorted({blob.sha256: blob for blob in blobs}.values(), key=lambda blob: blob.sha256)
    ]
    insert_or_update(session, BlobRow, rows, key=["sha256"], changed=["stored"])


def blob_ids(session: Session, sha256s: Iterable[str]) -> dict[str, int]:
    """The keys of the blobs that are known, by sha256; none of them goes until the transaction ends."""
    query = select(BlobRow.sha256, BlobRow.id).where(BlobRow.sha256.in_(list(sha256s)))
    query = query.order_by(BlobRow.sha256).with_for_update(read=True, key_share=True)
    return {row.sha256: row.id for row in session.execute(query)}
