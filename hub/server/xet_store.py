"""The hub as the Xet facade knows it (xet.store.FileStore): where files go, who may send them, the epoch."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor

from adapthub.hub import epoch, quotas, uploads
from adapthub.hub.access import caller_of, writable_repo
from adapthub.hub.reference import Reference
from adapthub.hub.storage.blobs import PIECE_BYTES
from adapthub.hub.store import Store
from adapthub.hub.trees import Blob


class XetStore:
    """A FileStore over `store`. `holder` is the prefix of the token that the upload was granted to."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def epoch(self) -> int:
        return epoch.current(self._store.database)

    def may_write(self, repo: str, holder: str) -> bool:
        try:
            with self._store.database.reading() as session:
                writable_repo(session, caller_of(session, holder), Reference.parse(repo))
        except PermissionError:
            return False
        return True

    def store(self, repo: str, holder: str, sha256: str, size: int, blocks: Iterable[bytes]) -> None:
        target = Reference.parse(repo)
        with self._store.database.reading() as session:
            quotas.check(session, target.namespace, [Blob(sha256, size)])
        with self._store.blobs.incoming() as incoming:
            _write_beside(_pieces(blocks), incoming.write)
            incoming.keep(sha256, origin="the upload")
        uploads.received(self._store, target, [Blob(sha256, size)], token=holder)


def _write_beside(pieces: Iterable[bytes], write: Callable[[bytes], None]) -> None:
    """Let a thread `write` a piece while the next is unpacked; where either raises, nothing is being written any more."""
    with ThreadPoolExecutor(1) as thread:
        writing: Future[None] | None = None
        for piece in pieces:
            if writing is not None:
                writing.result()
            writing = thread.submit(write, piece)
        if writing is not None:
            writing.result()


def _pieces(blocks: Iterable[bytes]) -> Iterable[bytes]:
    """The same bytes in larger pieces."""
    waiting = bytearray()
    for block in blocks:
        waiting += block
        if len(waiting) >= PIECE_BYTES:
            yield bytes(waiting)
            waiting.clear()
    yield bytes(waiting)
