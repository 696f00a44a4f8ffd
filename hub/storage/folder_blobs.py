"""Blobs in a folder: written aside, synced, renamed. What a killed process left half-written is removed after a day."""

from __future__ import annotations

import asyncio
import os
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from io import BufferedReader
from pathlib import Path

from obstore.store import LocalStore

from adapthub.adapters.errors import IntegrityError
from adapthub.adapters.files import Writeback, fsync_directory, sha256_bytes
from adapthub.adapters.home import make_folder, unusable
from adapthub.hub.storage.blobs import (
    ABANDONED_SECONDS,
    PIECE_BYTES,
    TRY_AGAIN,
    Blobs,
    Sink,
    key_of,
    lost,
    nothing,
    shorter,
)

_STREAM_BYTES = 2**19  # a piece of a download: each has one in memory, and another that is being sent


class FolderBlobs(Blobs):
    """The blobs below one folder, made if it is missing. Raises StorageError where the disk refuses."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._lasting: set[str] = set()  # folders that are on the disk for good: nobody removes any
        try:
            make_folder(root / "incoming")
            super().__init__(LocalStore(root), str(root))
        except OSError as error:
            raise unusable(root, error) from error

    def put(self, sha256: str, data: bytes, *, origin: str) -> None:
        if sha256_bytes(data) != sha256:
            raise IntegrityError(f"{origin} changed while it was being stored: its sha256 is not {sha256}")
        if self._holds(sha256):
            return
        with self.storage_errors():
            sink = self._sink()
            try:
                sink.write(data)
                sink.keep(sha256)
            finally:
                sink.drop()

    # By Python's own calls: obstore's streams read files by a few KiB, at fifty times the cost, its ranges are copied once
    # more, and each of its calls goes through a thread of its own.

    def read(self, sha256: str, offset: int, length: int) -> bytes:
        if length == 0:
            return b""
        with self._open(sha256) as file:
            file.seek(offset)
            data = file.read(length)
        if len(data) != length:
            raise shorter(sha256)
        return data

    def size(self, sha256: str) -> int | None:
        with self.storage_errors():
            try:
                return (self._root / key_of(sha256)).stat().st_size
            except FileNotFoundError:
                return None

    async def stream(self, sha256: str, start: int, end: int) -> AsyncIterator[bytes]:
        if start == end:
            return nothing()
        first = await asyncio.to_thread(self._piece, sha256, start, end)
        return self._from(first, sha256, start, end)

    async def _from(self, first: bytes, sha256: str, start: int, end: int) -> AsyncIterator[bytes]:
        yield first
        for offset in range(start + _STREAM_BYTES, end, _STREAM_BYTES):
            yield await asyncio.to_thread(self._piece, sha256, offset, end)

    def _piece(self, sha256: str, offset: int, end: int) -> bytes:
        with self._open(sha256) as file:
            file.seek(offset)
            wanted = min(_STREAM_BYTES, end - offset)
            data = file.read(wanted)
        if len(data) != wanted:
            raise IntegrityError(f"the blob {sha256} is shorter than it was")
        return data

    def pieces(self, sha256: str) -> Iterator[bytes]:
        with self._open(sha256) as file:
            while piece := file.read(PIECE_BYTES):
                yield piece

    def _get(self, sha256: str) -> bytes | None:
        with self.storage_errors(hint=TRY_AGAIN):
            try:
                return (self._root / key_of(sha256)).read_bytes()
            except FileNotFoundError:
                return None

    @contextmanager
    def _open(self, sha256: str) -> Iterator[BufferedReader]:
        with self.storage_errors(hint=TRY_AGAIN):
            try:
                file = (self._root / key_of(sha256)).open("rb")
            except FileNotFoundError:
                raise lost(sha256) from None
            with file:
                yield file

    def discard_abandoned(self) -> None:
        oldest = time.time() - ABANDONED_SECONDS
        with self.storage_errors():
            for path in (self._root / "incoming").iterdir():
                with suppress(FileNotFoundError):  # another push is done with it
                    if path.stat().st_mtime < oldest:
                        path.unlink()

    def _sink(self) -> Sink:
        return _FolderSink(self, self._root / "incoming" / uuid.uuid4().hex)

    def _publish(self, staged: Path, sha256: str) -> None:
        target = self._root / key_of(sha256)
        target.parent.mkdir(exist_ok=True)
        staged.replace(target)
        fsync_directory(target.parent)
        # Also where it was there: who made it may have been killed before it was on the disk.
        if target.parent.name not in self._lasting:
            fsync_directory(self._root)
            self._lasting.add(target.parent.name)


class _FolderSink:
    """A file in `incoming/`."""

    def __init__(self, blobs: FolderBlobs, path: Path) -> None:
        self._blobs = blobs
        self._path = path
        self._file = path.open("xb")
        self._writeback = Writeback(self._file.fileno())

    def write(self, data: bytes | memoryview) -> None:
        self._file.write(data)
        self._writeback.reached(self._file.tell())

    def keep(self, sha256: str) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self._blobs._publish(self._path, sha256)

    def drop(self) -> None:
        try:
            self._file.close()
        finally:
            self._path.unlink(missing_ok=True)
