"""What a backup is on disk: a folder, or one tar file; written aside, and whole once it has its name. Knows no tables.

The rows are for their owner's eyes alone.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import tarfile
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Protocol

from adapthub.adapters.errors import Conflict, IntegrityError, InvalidData, StorageError
from adapthub.adapters.files import fsync_directory
from adapthub.adapters.home import make_folder
from adapthub.hub.storage.blobs import PIECE_BYTES, Blobs, key_of
from adapthub.hub.storage.folder_blobs import FolderBlobs

TABLES = "tables.jsonl"
_BLOBS = "blobs"
_SUFFIX = ".tar"
_PRIVATE = 0o600
_BLOB = re.compile(rf"{_BLOBS}/[0-9a-f]{{2}}/([0-9a-f]{{64}})")


class Writing(Protocol):
    """A backup that is being written."""

    def tables(self, lines: Iterable[str]) -> None:
        """Write the rows."""
        ...

    def blob(self, sha256: str, size: int, blobs: Blobs) -> None:
        """Copy a blob. Raises IntegrityError where it is not what it was."""
        ...


class Reading(Protocol):
    """A backup that is being read: all blobs, then the rows."""

    def blobs(self) -> Iterator[tuple[str, Iterable[bytes]]]:
        """Each blob's sha256 and bytes, which are to be read, and checked, before the next one."""
        ...

    def tables(self) -> Iterator[str]:
        """The rows' lines."""
        ...


@contextmanager
def write_backup(target: Path) -> Iterator[Writing]:
    """Within: a backup is written, which is there when the block ends well. Raises StorageError, Conflict."""
    try:
        with _FolderWriting(target) if target.suffix != _SUFFIX else _TarWriting(target) as writing:
            yield writing
    except OSError as error:
        if isinstance(error, StorageError | Conflict):
            raise
        raise StorageError(
            f"the backup {target} cannot be written: {error.strerror or error}",
            hint="Check free space and permissions.",
        ) from error


@contextmanager
def open_backup(source: Path) -> Iterator[Reading]:
    """Within: a backup is read. Raises InvalidData where it is none."""
    if source.is_dir():
        if not (source / TABLES).is_file():
            raise InvalidData(f"{source} is no backup: it has no {TABLES}")
        yield _FolderReading(source)
        return
    try:
        with tarfile.open(source, "r:") as tar:
            yield _TarReading(tar, source)
    except (tarfile.TarError, OSError) as error:
        if isinstance(error, StorageError):
            raise
        raise InvalidData(f"{source} is no backup that can be read: {error}") from error


class _FolderWriting:
    """`tables.jsonl` and `blobs/`; the rows come last to their name, so that every blob that they name is there."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._aside = root / f".{TABLES}"
        make_folder(root)
        there = {path.name for path in root.iterdir()}
        # A hub's folder has blobs too: a backup is known by its rows, which are begun before anything else.
        if there and (there - {_BLOBS, TABLES, self._aside.name} or there == {_BLOBS}):
            raise Conflict(f"{root} has something else than a backup", hint="Choose another folder.")
        self._aside.touch(_PRIVATE)
        self._blobs = FolderBlobs(root / _BLOBS)

    def __enter__(self) -> Writing:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self._aside.replace(self._root / TABLES)
            fsync_directory(self._root)

    def tables(self, lines: Iterable[str]) -> None:
        with self._aside.open("w", encoding="utf-8") as stream:
            stream.writelines(f"{line}\n" for line in lines)
            stream.flush()
            os.fsync(stream.fileno())

    def blob(self, sha256: str, size: int, blobs: Blobs) -> None:
        if self._blobs.size(sha256) == size:
            return
        with self._blobs.incoming() as incoming:
            for piece in blobs.pieces(sha256):
                incoming.write(piece)
            incoming.keep(sha256, origin="the hub's blob")


class _FolderReading:
    def __init__(self, root: Path) -> None:
        self._root = root
        self._blobs = FolderBlobs(root / _BLOBS)

    def blobs(self) -> Iterator[tuple[str, Iterable[bytes]]]:
        for one in self._blobs.stored():
            yield one.sha256, self._blobs.pieces(one.sha256)

    def tables(self) -> Iterator[str]:
        with (self._root / TABLES).open(encoding="utf-8") as stream:
            yield from stream


class _TarWriting:
    def __init__(self, path: Path) -> None:
        self._path = path
        self._aside = path.with_name(f".{path.name}.part")
        self._rows = tempfile.TemporaryFile(dir=path.parent)  # noqa: SIM115 - closed in __exit__
        self._aside.touch(_PRIVATE)
        self._stream = self._aside.open("wb")
        self._tar = tarfile.open(fileobj=self._stream, mode="w:", format=tarfile.PAX_FORMAT)  # noqa: SIM115

    def __enter__(self) -> Writing:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                size = self._rows.seek(0, os.SEEK_END)
                self._rows.seek(0)
                self._add(TABLES, size, self._rows)
                self._tar.close()
                self._stream.flush()
                os.fsync(self._stream.fileno())
                self._aside.replace(self._path)
                fsync_directory(self._path.absolute().parent)
        finally:
            self._rows.close()
            self._stream.close()
            self._aside.unlink(missing_ok=True)

    def tables(self, lines: Iterable[str]) -> None:
        self._rows.writelines(f"{line}\n".encode() for line in lines)

    def blob(self, sha256: str, size: int, blobs: Blobs) -> None:
        stream = _Pieces(blobs.pieces(sha256))
        self._add(f"{_BLOBS}/{key_of(sha256)}", size, stream)
        if stream.digest.hexdigest() != sha256 or stream.read(1):
            raise IntegrityError(f"the hub's blob {sha256} is damaged", hint="See adapt hub check.")

    def _add(self, name: str, size: int, stream: IO[bytes] | _Pieces) -> None:
        entry = tarfile.TarInfo(name)
        entry.size = size
        self._tar.addfile(entry, stream)


class _TarReading:
    def __init__(self, tar: tarfile.TarFile, path: Path) -> None:
        self._tar = tar
        self._path = path
        self._rows: tarfile.TarInfo | None = None

    def blobs(self) -> Iterator[tuple[str, Iterable[bytes]]]:
        for entry in self._tar:
            stream = self._tar.extractfile(entry) if entry.isreg() else None
            if entry.name == TABLES:
                self._rows = entry
            elif stream is not None and (match := _BLOB.fullmatch(entry.name)):
                yield match[1], iter(lambda stream=stream: stream.read(PIECE_BYTES), b"")  # type: ignore[misc]
            else:
                raise InvalidData(f"{self._path} is no backup: it has {entry.name[:120]!r}")

    def tables(self) -> Iterator[str]:
        stream = None if self._rows is None else self._tar.extractfile(self._rows)
        if stream is None:
            raise InvalidData(f"{self._path} is no whole backup: it has no {TABLES}")
        return io.TextIOWrapper(stream, encoding="utf-8")


class _Pieces(io.RawIOBase):
    """Pieces as a stream, and the sha256 of what was read."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self.digest = hashlib.sha256()
        self._pieces = pieces
        self._waiting = b""

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        while size < 0 or len(self._waiting) < size:
            piece = next(self._pieces, b"")
            if not piece:
                break
            self._waiting += piece
        end = len(self._waiting) if size < 0 else size
        data, self._waiting = self._waiting[:end], self._waiting[end:]
        self.digest.update(data)
        return data
