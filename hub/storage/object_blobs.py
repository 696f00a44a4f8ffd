"""Blobs in an object store, S3 or one that speaks its protocol: an object appears whole, when its upload is completed.

What comes piece by piece is uploaded under a name in `incoming/` and copied, inside the store, once its digest is known to
be right; through this process where it is larger than S3 copies. An upload that is broken off is never completed; the
bucket's lifecycle rule removes its parts.
"""

from __future__ import annotations

import uuid
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import obstore
from obstore.exceptions import BaseError
from obstore.store import from_url

from adapthub.adapters.errors import IntegrityError, StorageError
from adapthub.adapters.files import sha256_bytes
from adapthub.hub.storage.blobs import ABANDONED_SECONDS, PIECE_BYTES, Blobs, Sink, key_of

if TYPE_CHECKING:
    from obstore.store import RetryConfig

_INCOMING = "incoming"
_PART_BYTES = 8 * 2**20
_COPIED_BYTES = 5 * 2**30  # the most that S3 copies at once
# A store that is away for longer is an error: whoever waits for an answer can try again themselves.
_RETRIES: RetryConfig = {"max_retries": 4, "retry_timeout": timedelta(seconds=30)}


class ObjectBlobs(Blobs):
    """The blobs of one obstore `store`, which messages call `where`."""

    def __init__(self, store: Any, where: str) -> None:
        super().__init__(store, where)

    @classmethod
    def open(cls, url: str) -> ObjectBlobs:
        """The blobs below `url`. Raises StorageError where it cannot be reached."""
        try:
            store = from_url(url, retry_config=_RETRIES)
            next(
                iter(obstore.list(store, prefix=_INCOMING, chunk_size=1)), None
            )  # it is found out now whether it answers
        except (BaseError, OSError, ValueError) as error:
            raise StorageError(
                f"the hub's blobs in {url} cannot be opened: {str(error).splitlines()[0]}",
                hint="Make the bucket; set AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION, and AWS_ENDPOINT_URL for"
                " another S3.",
            ) from error
        return cls(store, url)

    def put(self, sha256: str, data: bytes, *, origin: str) -> None:
        if sha256_bytes(data) != sha256:
            raise IntegrityError(f"{origin} changed while it was being stored: its sha256 is not {sha256}")
        if not self._holds(sha256):
            with self.storage_errors():
                obstore.put(self._store, key_of(sha256), data)

    def discard_abandoned(self) -> None:
        oldest = datetime.now(UTC) - timedelta(seconds=ABANDONED_SECONDS)
        with self.storage_errors():
            for page in obstore.list(self._store, prefix=_INCOMING):
                for entry in page:
                    if entry["last_modified"] < oldest:
                        with suppress(FileNotFoundError):
                            obstore.delete(self._store, entry["path"])

    def _sink(self) -> Sink:
        return _ObjectSink(self._store)


class _ObjectSink:
    """An upload under a name of its own: the blob's is known when all has come, so it is copied there, inside the store."""

    def __init__(self, store: Any) -> None:
        self._store = store
        self._key = f"{_INCOMING}/{uuid.uuid4().hex}"
        self._writer: Any = obstore.open_writer(store, self._key, buffer_size=_PART_BYTES)
        self._size = 0
        self._closed = False

    def write(self, data: bytes | memoryview) -> None:
        self._writer.write(bytes(data))  # it may hold on to them
        self._size += len(data)

    def keep(self, sha256: str) -> None:
        self._writer.close()
        self._closed = True
        if self._size <= _COPIED_BYTES:
            obstore.copy(self._store, self._key, key_of(sha256))
            return
        writer = obstore.open_writer(self._store, key_of(sha256), buffer_size=_PART_BYTES)
        for piece in obstore.get(self._store, self._key).stream(min_chunk_size=PIECE_BYTES):
            writer.write(bytes(piece))
        writer.close()  # only now is it there

    def drop(self) -> None:
        if self._closed:
            obstore.delete(self._store, self._key)
            self._closed = False
