"""Xorbs kept aside on disk: in generations, within a total, until nobody uploads with them any more.

    {root}/{epoch}/{generation}/{hash}      a sealed xorb
    {root}/incoming/                        bodies as they come; what a killed process left goes after a day

A client remembers, by the address that it uploaded to, which xorbs the hub has, and does not send them again. So a xorb
never goes alone: a generation is one address, lives until no upload uses it, and goes whole; new uploads then have another
address. Folders are the only record, so several processes may share one root; each counts what the others keep when it
sweeps, and what one holder adds by itself. Does not look into xorbs.
"""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from adapthub.adapters.errors import NotFound, Overloaded, StorageError
from adapthub.adapters.files import Writeback, fsync_directory
from adapthub.adapters.home import make_folder, unusable
from adapthub.hub.server.xet.limits import XetLimits

ABANDONED_SECONDS = 24 * 3600
_BLOCK_BYTES = 4096  # what a file takes at least
_NS = 1_000_000_000


class Incoming:
    """A body on its way to the disk."""

    def __init__(self, kept: KeptXorbs, holder: str, stream: IO[bytes]) -> None:
        self.path = Path(stream.name)
        self.size = 0
        self.holder = holder
        self._kept = kept
        self._stream = stream
        self._writeback = Writeback(stream.fileno())

    def write(self, data: bytes | memoryview) -> None:
        """Append `data`. Raises Overloaded where the hub keeps all that it may, in all or of this holder, and StorageError
        where the disk refuses."""
        self._kept.reserve(self.holder, len(data))
        self.size += len(data)
        with storage_errors():
            self._stream.write(data)
            self._stream.flush()
            self._writeback.reached(self.size)


class KeptXorbs:
    """The xorbs below `root`, which is made if it is missing. Safe for threads. Raises StorageError."""

    def __init__(self, root: Path, limits: XetLimits) -> None:
        self._root = root
        self._incoming = root / "incoming"
        self.limits = limits
        self._lock = threading.Lock()
        self._arriving: Counter[str] = Counter()  # bytes in incoming that are of this process, by holder
        self._shares: dict[str, Counter[str]] = {}  # those kept by this process, by generation and holder
        try:
            make_folder(self._incoming)
        except OSError as error:
            raise unusable(root, error) from error
        self._kept = self._count()

    def current(self, epoch: int) -> str:
        """The generation that a new upload is to use, in use from now on: begun if there is none that is young enough."""
        with self._lock, storage_errors():
            newest = self._newest(epoch)
            if newest is None or _age(newest) > self.limits.generation_seconds:
                return self._begin(epoch).name
            os.utime(newest)
            return newest.name

    def retire(self, folder: Path) -> None:
        """New uploads no longer use the generation in `folder`, nor what is kept there; those that run go on."""
        epoch = int(folder.parent.name)
        with self._lock, storage_errors():
            if self._newest(epoch) == folder:
                self._begin(epoch)

    def generation(self, epoch: int, name: str) -> Path:
        """The folder of a generation, in use from now on. Raises NotFound where it is gone."""
        folder = self._root / str(epoch) / name
        if name not in self._names(epoch):
            raise NotFound(
                f"what was uploaded to generation {name[:40]} of epoch {epoch} is no longer kept",
                hint="Upload the files again.",
            )
        with storage_errors():
            os.utime(folder)
        return folder

    @contextmanager
    def receive(self, holder: str) -> Iterator[Incoming]:
        """A file for a body that `holder` sends, removed at the end unless it was kept."""
        with storage_errors():
            stream = tempfile.NamedTemporaryFile(dir=self._incoming, delete=False)  # noqa: SIM115 - closed below
        incoming = Incoming(self, holder, stream)
        try:
            yield incoming
        finally:
            stream.close()
            incoming.path.unlink(missing_ok=True)
            self.release(holder, incoming.size)

    def keep(self, incoming: Incoming, folder: Path, name: str) -> bool:
        """Keep a sealed xorb in a generation's folder; whether it is new there. It is on the disk when this returns."""
        with storage_errors():
            new = not (folder / name).exists()
            size = incoming.path.stat().st_size
            incoming.path.replace(folder / name)
            fsync_directory(folder)
        if new:
            with self._lock:
                self._kept += _on_disk(size)
                self._shares.setdefault(folder.name, Counter())[incoming.holder] += _on_disk(size)
        return new

    def reserve(self, holder: str, size: int) -> None:
        """Count `size` bytes that arrive. Raises Overloaded where that is more than the hub may keep, or of this holder."""
        with self._lock:
            share = sum(kept[holder] for kept in self._shares.values()) + self._arriving[holder]
            if share + size > self.limits.share_bytes:
                raise Overloaded(
                    f"the hub keeps {share:,} bytes of your uploads, and may keep {self.limits.share_bytes:,}",
                    hint="Room is made when uploads end: try again later.",
                )
            if self._kept + self._arriving.total() + size > self.limits.kept_bytes:
                raise Overloaded(
                    f"the hub keeps {self._kept:,} bytes of uploads, and may keep {self.limits.kept_bytes:,}",
                    hint="Room is made when uploads end: try again later.",
                )
            self._arriving[holder] += size

    def release(self, holder: str, size: int) -> None:
        """Count `size` bytes no longer as arriving."""
        with self._lock:
            self._arriving -= Counter({holder: size})  # which leaves out who has none

    def sweep(self, epoch: int) -> None:
        """Remove what no upload uses: other epochs, generations that are old and idle, bodies long abandoned."""
        with storage_errors():
            for folder in self._root.iterdir():
                if folder.name not in ("incoming", str(epoch)):
                    shutil.rmtree(folder, ignore_errors=True)
            with self._lock:
                newest = self._newest(epoch)
            for name in self._names(epoch):
                folder = self._root / str(epoch) / name
                closed = folder != newest or _age(folder) > self.limits.generation_seconds
                if closed and _untouched(folder) > self.limits.idle_seconds:
                    shutil.rmtree(folder, ignore_errors=True)
            for path in self._incoming.iterdir():
                with suppress(FileNotFoundError):  # its upload has ended
                    if _untouched(path) > ABANDONED_SECONDS:
                        path.unlink()
            kept = self._count()
            there = self._names(epoch)
        with self._lock:
            self._kept = kept
            self._shares = {name: share for name, share in self._shares.items() if name in there}

    def _names(self, epoch: int) -> list[str]:
        folder = self._root / str(epoch)
        return sorted(path.name for path in folder.iterdir()) if folder.exists() else []

    def _newest(self, epoch: int) -> Path | None:
        names = self._names(epoch)
        return self._root / str(epoch) / names[-1] if names else None

    def _begin(self, epoch: int) -> Path:
        newest = self._newest(epoch)
        # Names sort by age, whatever the clock does.
        began = time.time_ns() if newest is None else max(time.time_ns(), _began(newest) + 1)
        folder = self._root / str(epoch) / f"{began:016x}-{secrets.token_hex(4)}"
        folder.mkdir(parents=True)
        fsync_directory(folder.parent)
        fsync_directory(self._root)
        return folder

    def _count(self) -> int:
        total = 0
        for folder, _, names in os.walk(self._root):
            if Path(folder) != self._incoming:
                for name in names:
                    with suppress(FileNotFoundError):
                        total += _on_disk((Path(folder) / name).stat().st_size)
        return total


@contextmanager
def storage_errors() -> Iterator[None]:
    """What the disk refuses, as StorageError."""
    try:
        yield
    except OSError as error:
        if isinstance(error, StorageError):
            raise
        raise StorageError(
            f"the hub's folder for uploads failed: {error.strerror or error}",
            hint="Check free space and permissions, then upload again.",
        ) from error


def _began(folder: Path) -> int:
    return int(folder.name.partition("-")[0], 16)


def _age(folder: Path) -> float:
    return (time.time_ns() - _began(folder)) / _NS


def _untouched(path: Path) -> float:
    return time.time() - path.stat().st_mtime


def _on_disk(size: int) -> int:
    return max(size, _BLOCK_BYTES)
