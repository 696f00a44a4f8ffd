"""Files of a hub, several at once, each verified before anybody sees it, and gone on with where they were cut off.

What came of a file is kept in a folder of parts, and the next attempt, also of another process, asks for the rest. Bytes
that are not the file's are thrown away. Does not know which files make an adapter.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from adapthub.adapters.admission import MAX_BYTES, MAX_DOCUMENT_BYTES
from adapthub.adapters.errors import AdmissionError, IntegrityError, StorageError, Unreachable
from adapthub.adapters.files import sha256_bytes
from adapthub.adapters.home import make_folder

if TYPE_CHECKING:
    import httpx2

    from adapthub.hub.connection import Connection

_AT_ONCE = 8
_RESUMPTIONS = 5
_PIECE = 2**20

Watch = Callable[[int, int], None]
"""Told of progress: bytes of this pull that are here, and bytes that it has in all."""


def unwatched(_done: int, _total: int) -> None:
    """Tell nobody."""


@dataclass(frozen=True)
class Wanted:
    """A file to download: its `path`, `size` in bytes, the `where` to ask the hub for, and its hex `sha256` or git's hex
    sha1 (`git_oid`): one of them is known. Raises AdmissionError for a size that no such file of an adapter may have: what
    is larger is refused before it is brought."""

    path: str
    size: int
    where: str
    sha256: str | None = None
    git_oid: str | None = None

    def __post_init__(self) -> None:
        limit = MAX_BYTES.get(self.path, MAX_DOCUMENT_BYTES)
        if not 0 <= self.size <= limit:
            raise AdmissionError(f"the hub's {self.path} has {self.size} bytes; at most {limit} are kept")

    @property
    def part(self) -> str:
        """What it is called while it comes: nothing that a hub chose, and of no other file, be it the same bytes."""
        return sha256_bytes(f"{self.sha256 or self.git_oid} {self.path}".encode())


class Progress:
    """The bytes that several threads brought, counted for one watcher."""

    def __init__(self, total: int, watch: Watch) -> None:
        from threading import Lock

        self._total, self._done = total, 0
        self._watch, self._lock = watch, Lock()

    def add(self, count: int) -> None:
        """So many bytes more; fewer, where some were thrown away."""
        with self._lock:
            self._done += count
            self._watch(self._done, self._total)


def download(
    connection: Connection, files: Sequence[Wanted], parts: Path, watch: Watch = unwatched
) -> Iterator[tuple[str, Path]]:
    """Each file's path and where its verified bytes are now, below `parts`, in the order that they come.

    Raises Unreachable where the hub is cut off again and again (what came is kept), IntegrityError naming a file whose bytes
    the hub has wrong, StorageError where the disk refuses.
    """
    try:
        make_folder(parts)
    except OSError as error:
        raise StorageError(f"cannot write {parts}: {error.strerror or error}") from error
    progress = Progress(sum(file.size for file in files), watch)
    with ThreadPoolExecutor(_AT_ONCE, "download") as pool:
        running = {pool.submit(_bring, connection, file, parts, progress): file for file in files}
        try:
            for done in as_completed(running):
                yield running[done].path, done.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def check_bytes(file: Wanted, data: bytes) -> None:
    """Raises IntegrityError unless `data` are the bytes of `file`."""
    digest = _digest_of(file)
    digest.update(data)
    _check(file, len(data), digest.hexdigest())


def is_of(file: Wanted, data: bytes) -> bool:
    """Whether `data` are the bytes of `file`."""
    try:
        check_bytes(file, data)
    except IntegrityError:
        return False
    return True


def _bring(connection: Connection, file: Wanted, parts: Path, progress: Progress) -> Path:
    target = parts / file.part
    resumed = target.exists()
    try:
        _complete(connection, file, target, progress)
        try:
            return _verified(file, target)
        except IntegrityError:
            _throw_away(target, progress)
            if not resumed:
                raise
        _complete(connection, file, target, progress)  # the beginning may have been of something else
        return _verified(file, target)
    except OSError as error:
        if isinstance(error, StorageError):
            raise
        raise StorageError(
            f"cannot write {target}: {error.strerror or error}", hint="Free some space."
        ) from error


def _complete(connection: Connection, file: Wanted, target: Path, progress: Progress) -> None:
    """Ask for what is missing of a file until nothing is."""
    here = target.stat().st_size if target.exists() else 0
    if here > file.size:
        target.unlink()
        here = 0
    progress.add(here)
    for attempt in range(_RESUMPTIONS + 1):
        try:
            _ask_for_rest(connection, file, target, progress)
            return
        except Unreachable:
            if attempt == _RESUMPTIONS or not target.exists() or target.stat().st_size == here:
                raise  # nothing came: nobody is there any more
            here = target.stat().st_size


def _ask_for_rest(connection: Connection, file: Wanted, target: Path, progress: Progress) -> None:
    here = target.stat().st_size if target.exists() else 0
    if here == file.size and here:
        return
    headers = {"accept-encoding": "identity", **({"range": f"bytes={here}-"} if here else {})}
    with connection.stream("GET", file.where, headers=headers) as response:
        if here and response.status_code != 206:  # it sends all of it
            _throw_away(target, progress)
        _append(response, file, target, progress)


def _append(response: httpx2.Response, file: Wanted, target: Path, progress: Progress) -> None:
    with target.open("ab") as stream:
        for piece in response.iter_bytes():
            stream.write(piece)
            progress.add(len(piece))
            if stream.tell() > file.size:
                break  # found to be wrong by who verifies
    if target.stat().st_size < file.size:
        raise Unreachable(f"{file.path} was cut off at {target.stat().st_size} of {file.size} bytes")


def _verified(file: Wanted, target: Path) -> Path:
    digest = _digest_of(file)
    with target.open("rb") as stream:
        while piece := stream.read(_PIECE):
            digest.update(piece)
    _check(file, target.stat().st_size, digest.hexdigest())
    return target


def _digest_of(file: Wanted) -> hashlib._Hash:
    if file.sha256 is not None:
        return hashlib.sha256()
    return hashlib.sha1(b"blob %d\0" % file.size, usedforsecurity=False)


def _check(file: Wanted, size: int, digest: str) -> None:
    expected = file.sha256 or file.git_oid
    if size != file.size:
        raise IntegrityError(f"the hub sent {size} bytes of {file.path}, which has {file.size}")
    if digest != expected:
        raise IntegrityError(
            f"the hub sent other bytes of {file.path} than it has: {digest}, not {expected}",
            hint="Pull again; if it stays so, the hub's copy is damaged.",
        )


def _throw_away(target: Path, progress: Progress) -> None:
    progress.add(-target.stat().st_size)
    target.unlink()
