"""The hub as the facade knows it, in memory."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterable

from adapthub.adapters.errors import IntegrityError


class MemoryStore:
    """Files by sha256; the epoch and who may write are set by tests. A FileStore, that also says what it `holds`."""

    def __init__(self) -> None:
        self.current_epoch = 1
        self.writers = {"alice"}
        self.files: dict[str, bytes] = {}
        self.stores: list[tuple[str, str]] = []  # (repository, sha256) of each call
        self._lock = threading.Lock()

    def epoch(self) -> int:
        return self.current_epoch

    def may_write(self, repo: str, holder: str) -> bool:
        return holder in self.writers

    def holds(self, sha256: str) -> bool:
        return sha256 in self.files

    def store(self, repo: str, sha256: str, size: int, blocks: Iterable[bytes]) -> None:
        data = b"".join(blocks)
        assert len(data) == size
        found = hashlib.sha256(data).hexdigest()
        if found != sha256:
            raise IntegrityError(f"the upload has the sha256 {found}, not {sha256}")
        with self._lock:
            self.files[sha256] = data
            self.stores.append((repo, sha256))
