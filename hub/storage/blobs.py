"""Blobs: bytes stored once under their own sha256, in a folder or in S3, through obstore.

    blobs/3f/3f5a…      a blob, whole and on the disk from the moment that it has this name
    blobs/incoming/     in a folder: blobs being written; what a killed process left there is removed after a day

What is put is hashed while it is written, and only gets its name where the hash is right. Knows nothing of adapters or
versions, and so not which blobs may be deleted (collecting does).
"""

from __future__ import annotations

import hashlib
import re
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol, Self

import obstore
from obstore.exceptions import BaseError

from adapthub.adapters.errors import IntegrityError, StorageError
from adapthub.adapters.files import sha256_bytes

PIECE_BYTES = 2**20
ABANDONED_SECONDS = 24 * 3600
TRY_AGAIN = "Check permissions, then try again."
_CHECK = "Whoever runs the hub sees with adapt hub check what else is lost, and restores a backup."
_SHA256 = re.compile(r"[0-9a-f]{64}")
_NOTHING_STORED = "Nothing was published. Check free space and permissions, then try again."


class BlobLost(StorageError, IntegrityError):
    """Bytes that the hub should hold are gone, or are not what they were: a failure of the hub, whoever asks for them."""


@dataclass(frozen=True, slots=True)
class Stored:
    """A blob as its place lists it: `size` in bytes, `modified` when it was written."""

    sha256: str
    size: int
    modified: datetime


class Sink(Protocol):
    """Where a blob's bytes go before anybody sees them."""

    def write(self, data: bytes | memoryview) -> None:
        """Add bytes, which may be others once this returned."""
        ...

    def keep(self, sha256: str) -> None:
        """Let the bytes be the blob `sha256`, surviving a power cut."""
        ...

    def drop(self) -> None:
        """Forget the bytes. Idempotent, also after `keep`."""
        ...


class Incoming:
    """A blob being written, piece by piece in bounded memory. Use it in a `with` block: what is not kept goes with it."""

    def __init__(self, blobs: Blobs, sink: Sink) -> None:
        self._blobs = blobs
        self._sink = sink
        self._hash = hashlib.sha256()
        self.size = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Forget what was written, unless it was kept. Idempotent."""
        with self._blobs.storage_errors():
            self._sink.drop()

    @property
    def sha256(self) -> str:
        """Of what was written until now."""
        return self._hash.hexdigest()

    def write(self, data: bytes | memoryview) -> None:
        """Add bytes. Raises StorageError where the disk refuses."""
        self._hash.update(data)
        self.size += len(data)
        with self._blobs.storage_errors():
            self._sink.write(data)

    def keep(self, sha256: str, *, origin: str) -> None:
        """Store what was written; when this returns it survives a power cut. Raises IntegrityError, naming `origin`, where
        it is not `sha256`."""
        if self.sha256 != sha256:
            raise IntegrityError(f"{origin} has the sha256 {self.sha256}, not {sha256}")
        with self._blobs.storage_errors():
            self._sink.keep(sha256)


class Blobs(ABC):
    """The blobs in one place, which messages call `where`. Every call raises StorageError where the place refuses."""

    def __init__(self, store: Any, where: str) -> None:
        self._store = store
        self.where = where

    @abstractmethod
    def _sink(self) -> Sink: ...

    @abstractmethod
    def put(self, sha256: str, data: bytes, *, origin: str) -> None:
        """Store `data` under `sha256`; when this returns it survives a power cut.

        What is there already stays, unless it is damaged: then it is replaced.

        Raises IntegrityError, naming `origin`, if `data` has another digest.
        """

    def incoming(self) -> Incoming:
        """A blob to be written piece by piece."""
        with self.storage_errors():
            return Incoming(self, self._sink())

    def get(self, sha256: str, *, origin: str) -> bytes:
        """The verified bytes. Raises BlobLost, naming `origin`, if they are missing or damaged."""
        data = self._get(sha256)
        if data is None:
            raise BlobLost(f"{origin} is missing from the hub: no blob {sha256}")
        if sha256_bytes(data) != sha256:
            raise BlobLost(f"{origin} is damaged in the hub: blob {sha256} has other bytes")
        return data

    def read(self, sha256: str, offset: int, length: int) -> bytes:
        """So many bytes from `offset`, unverified. Raises BlobLost if the blob is missing or shorter."""
        if length == 0:
            return b""
        with self.storage_errors(hint=TRY_AGAIN):
            try:
                data = bytes(obstore.get_range(self._store, key_of(sha256), start=offset, length=length))
            except FileNotFoundError:
                raise lost(sha256) from None
        if len(data) != length:
            raise shorter(sha256)
        return data

    async def stream(self, sha256: str, start: int, end: int) -> AsyncIterator[bytes]:
        """The bytes [start, end) in pieces, unverified. Raises BlobLost, before there is a first piece, if the blob is
        missing."""
        if start == end:
            return nothing()
        with self.storage_errors(hint=TRY_AGAIN):
            try:
                found = await obstore.get_async(self._store, key_of(sha256), options={"range": (start, end)})
            except FileNotFoundError:
                raise lost(sha256) from None
        return self._pieces(found)

    async def _pieces(self, found: Any) -> AsyncIterator[bytes]:
        with self.storage_errors(hint=TRY_AGAIN):
            async for piece in found.stream(min_chunk_size=PIECE_BYTES):
                yield bytes(piece)

    def size(self, sha256: str) -> int | None:
        """The bytes of a blob; None where it is not there."""
        with self.storage_errors():
            try:
                return int(obstore.head(self._store, key_of(sha256))["size"])
            except FileNotFoundError:
                return None

    def stored(self) -> Iterator[Stored]:
        """Every blob that is there."""
        with self.storage_errors(hint=TRY_AGAIN):
            for page in obstore.list(self._store):
                for entry in page:
                    folder, _, name = entry["path"].rpartition("/")
                    if _SHA256.fullmatch(name) and folder == name[:2]:
                        yield Stored(name, int(entry["size"]), entry["last_modified"])

    def pieces(self, sha256: str) -> Iterator[bytes]:
        """A blob from its beginning to its end, unverified. Raises BlobLost if it is missing."""
        with self.storage_errors(hint=TRY_AGAIN):
            try:
                found = obstore.get(self._store, key_of(sha256))
            except FileNotFoundError:
                raise lost(sha256) from None
            for piece in found.stream(min_chunk_size=PIECE_BYTES):
                yield bytes(piece)

    def delete(self, sha256s: Sequence[str]) -> None:
        """Delete blobs; those that are not there already are as good as deleted."""
        with self.storage_errors(hint=TRY_AGAIN):
            for sha256 in sha256s:
                with suppress(FileNotFoundError):
                    obstore.delete(self._store, key_of(sha256))

    @abstractmethod
    def discard_abandoned(self) -> None:
        """Remove what killed processes left half-written more than a day ago."""

    @contextmanager
    def storage_errors(self, hint: str = _NOTHING_STORED) -> Iterator[None]:
        """Within: errors of the disk or of S3 become StorageError."""
        try:
            yield
        except (BaseError, OSError) as error:
            if isinstance(error, StorageError):
                raise
            raise self._storage_error(error, hint) from error

    def _storage_error(self, error: Exception, hint: str) -> StorageError:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        return StorageError(f"the hub's blobs in {self.where} failed: {reason.splitlines()[0]}", hint=hint)

    def _get(self, sha256: str) -> bytes | None:
        with self.storage_errors(hint=TRY_AGAIN):
            try:
                return obstore.get(self._store, key_of(sha256)).bytes().to_bytes()
            except FileNotFoundError:
                return None

    def _holds(self, sha256: str) -> bool:
        data = self._get(sha256)
        return data is not None and sha256_bytes(data) == sha256


async def nothing() -> AsyncIterator[bytes]:
    """No pieces."""
    none: tuple[bytes, ...] = ()
    for piece in none:
        yield piece


def key_of(sha256: str) -> str:
    """Where a blob is, below the place of all blobs."""
    return f"{sha256[:2]}/{sha256}"


def lost(sha256: str) -> BlobLost:
    """The error for a blob that is known and not there."""
    return BlobLost(f"the hub has lost the blob {sha256}", hint=_CHECK)


def shorter(sha256: str) -> BlobLost:
    """The error for a blob that ends before it should."""
    return BlobLost(f"the blob {sha256} is shorter than it was", hint=_CHECK)
