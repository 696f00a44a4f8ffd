"""Files that appear whole or not at all: write aside, fsync, rename; and digests of bytes and files.

Does not know what an adapter is. Holds no locks: of two writers of one path, the last rename wins whole.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from adapthub.adapters.errors import Conflict, StorageError
from adapthub.adapters.home import make_folder


def sha256_bytes(data: bytes | bytearray | memoryview) -> str:
    """The lower-case hex sha256 of `data`."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    """The lower-case hex sha256 of the file's bytes, read in chunks."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def fsync_directory(path: Path) -> None:
    """Make a rename inside `path` durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class Writeback:
    """Lets the system begin to bring a file to the disk while it is written, where it can: a later fsync then finds little
    left to do. Makes nothing durable."""

    _STEP = (
        4 * 2**20
    )  # each beginning waits a little: for every MiB they would take longer than the fsync without

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._begun = 0

    def reached(self, size: int) -> None:
        """So many bytes of the file are written now."""
        if size - self._begun >= self._STEP and hasattr(os, "posix_fadvise"):
            # What is dirty is written, not dropped.
            os.posix_fadvise(self._descriptor, self._begun, size - self._begun, os.POSIX_FADV_DONTNEED)
            self._begun = size


def write_bytes(path: Path, data: bytes) -> None:
    """Replace `path` with `data`, whole or not at all. Raises StorageError, leaving what was there."""
    try:
        make_folder(path.parent)
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror or error}") from error
    aside = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        aside.replace(path)
        fsync_directory(path.parent)
    except OSError as error:
        raise StorageError(
            f"cannot write {path}: {error.strerror or error}",
            hint="Free some space or choose another folder.",
        ) from error
    finally:
        aside.unlink(missing_ok=True)


@contextmanager
def new_directory(target: Path, *, replace: bool = False, durable: bool = True) -> Iterator[Path]:
    """Yield an empty folder beside `target`; on a clean exit fsync its files and rename it to `target`.

    With `replace` an existing `target` is swapped out and removed after the rename; without it an existing
    `target` raises Conflict: before anything is written, or at the end where it appeared meanwhile. On any
    exception nothing is left and `target` is untouched. Without `durable` nothing is synced: for what can be made again.
    Raises StorageError where the disk refuses.
    """
    if target.exists() and not replace:
        raise Conflict(f"{target} already exists", hint="Remove it or choose another folder.")
    try:
        make_folder(target.parent)
        aside = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    except OSError as error:
        raise StorageError(f"cannot write {target}: {error.strerror or error}") from error
    try:
        yield aside
        aside.chmod(0o755)
        if durable:
            _sync(aside)
        _publish(aside, target, replace=replace)
        if durable:
            fsync_directory(target.parent)
    except OSError as error:
        if isinstance(error, (StorageError, Conflict)):
            raise
        raise StorageError(
            f"cannot write {target}: {error.strerror or error}",
            hint="Free some space or choose another folder.",
        ) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _sync(folder: Path) -> None:
    for path in (folder, *folder.rglob("*")):
        if path.is_dir():
            fsync_directory(path)
            continue
        with path.open("rb") as stream:
            os.fsync(stream.fileno())


def _publish(aside: Path, target: Path, *, replace: bool) -> None:
    if replace and target.exists():
        _swap(aside, target)
        return
    try:
        aside.rename(target)
    except OSError as error:
        if error.errno in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):  # another writer was faster
            raise Conflict(f"{target} already exists", hint="Remove it or choose another folder.") from error
        raise


def _swap(aside: Path, target: Path) -> None:
    retired = Path(tempfile.mkdtemp(prefix=f".{target.name}.old.", dir=target.parent))
    old = retired / target.name
    try:
        target.rename(old)
        try:
            aside.rename(target)
        except OSError:
            old.rename(target)
            raise
        shutil.rmtree(old, ignore_errors=True)
    finally:
        with suppress(OSError):  # where the old folder could not be put back it stays here, whole
            retired.rmdir()
