"""Blobs: bytes stored once under their own sha256, in a folder, through obstore.

    blobs/3f/3f5a…      a blob, whole and on the disk from the moment that it has this name
    blobs/incoming/     blobs being written; what a killed process left there is removed after a day

Knows nothing of adapters or versions, and never deletes a blob. Bytes travel whole in memory: an adapter is
small.
"""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import obstore
from obstore.exceptions import BaseError
from obstore.store import LocalStore

from adapthub.adapters.errors import IntegrityError, StorageError
from adapthub.adapters.files import fsync_directory, sha256_bytes
from adapthub.adapters.home import make_folder, unusable

ABANDONED_SECONDS = 24 * 3600
_NOTHING_STORED = "Nothing was published. Check free space and permissions, then try again."


class Blobs:
    """The blobs below one folder, made if it is missing. Raises StorageError where the disk refuses."""

    def __init__(self, root: Path) -> None:
        self._root = root
        try:
            make_folder(root / "incoming")
            self._store = LocalStore(root)
        except OSError as error:
            raise unusable(root, error) from error

    def put(self, sha256: str, data: bytes, *, origin: str) -> None:
        """Store `data` under `sha256`; when this returns it survives a power cut.

        What is there already stays, unless it is damaged: then it is replaced.

        Raises IntegrityError, naming `origin`, if `data` has another digest.
        """
        if sha256_bytes(data) != sha256:
            raise IntegrityError(f"{origin} changed while it was being stored: its sha256 is not {sha256}")
        if self._holds(sha256):
            return
        staged = f"incoming/{uuid.uuid4().hex}"
        with self._storage_errors():
            try:
                obstore.put(self._store, staged, data, use_multipart=False)
                _fsync(self._root / staged)
                (self._root / _key(sha256)).parent.mkdir(exist_ok=True)
                obstore.rename(self._store, staged, _key(sha256))
            finally:
                (self._root / staged).unlink(missing_ok=True)
            fsync_directory((self._root / _key(sha256)).parent)
            fsync_directory(self._root)

    def get(self, sha256: str, *, origin: str) -> bytes:
        """The verified bytes. Raises IntegrityError, naming `origin`, if they are missing or damaged."""
        data = self._read(sha256)
        if data is None:
            raise IntegrityError(f"{origin} is missing from the hub: no blob {sha256}")
        if sha256_bytes(data) != sha256:
            raise IntegrityError(f"{origin} is damaged in the hub: blob {sha256} has other bytes")
        return data

    def discard_abandoned(self) -> None:
        """Remove what killed processes left half-written more than a day ago."""
        oldest = time.time() - ABANDONED_SECONDS
        with self._storage_errors():
            for path in (self._root / "incoming").iterdir():
                with suppress(FileNotFoundError):  # another push is done with it
                    if path.stat().st_mtime < oldest:
                        path.unlink()

    def _holds(self, sha256: str) -> bool:
        data = self._read(sha256)
        return data is not None and sha256_bytes(data) == sha256

    def _read(self, sha256: str) -> bytes | None:
        with self._storage_errors(hint="Check permissions, then try again."):
            try:
                return obstore.get(self._store, _key(sha256)).bytes().to_bytes()
            except FileNotFoundError:
                return None

    @contextmanager
    def _storage_errors(self, hint: str = _NOTHING_STORED) -> Iterator[None]:
        try:
            yield
        except (BaseError, OSError) as error:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            raise StorageError(
                f"the hub's blobs in {self._root} failed: {reason.splitlines()[0]}",
                hint=hint,
            ) from error


def _key(sha256: str) -> str:
    return f"{sha256[:2]}/{sha256}"


def _fsync(path: Path) -> None:
    with path.open("rb") as stream:
        os.fsync(stream.fileno())
