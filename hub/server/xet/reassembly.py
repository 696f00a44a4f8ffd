"""Files put together from kept xorbs: every term checked first, then their bytes in order.

Does not store them or hash them, and does not decide what becomes of a shard.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from adapthub.adapters.errors import IntegrityError, InvalidData
from adapthub.hub.server.xet.hashes import range_hash
from adapthub.hub.server.xet.shards import FileEntry, Term
from adapthub.hub.server.xet.xorbs import KeptXorb


class XorbGone(InvalidData):
    """A term refers to a xorb that is not kept: the sender remembers one that was removed, or never sent it."""


class Reassembly:
    """Files from the xorbs in `folder`, of which one is open at a time; a context manager, for one thread."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._name = ""
        self._open: KeptXorb | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def check(self, file: FileEntry) -> None:
        """Raise InvalidData or IntegrityError unless every term is a range of chunks that its sender knew.

        XorbGone, an InvalidData, where a xorb is not kept.
        """
        for index, term in enumerate(file.terms()):
            self._check(term, f"file {file.sha256}, term {index}")

    def blocks(self, file: FileEntry) -> Iterator[bytes]:
        """The file's bytes, whatever their sha256 is."""
        for term in file.terms():
            yield from self._xorb(term.xorb).unpacked(term.start, term.end)

    def _check(self, term: Term, where: str) -> None:
        xorb = self._xorb(term.xorb)
        if not 0 <= term.start < term.end <= xorb.count:
            raise InvalidData(
                f"{where}: chunks {term.start} to {term.end} of xorb {term.xorb}, which has {xorb.count}"
            )
        places = xorb.places(term.start, term.end)
        unpacked = sum(place.unpacked for place in places)
        if unpacked != term.unpacked:
            raise InvalidData(f"{where}: {term.unpacked:,} bytes announced, its chunks have {unpacked:,}")
        if range_hash(b"".join(place.hash for place in places)) != term.range_hash:
            raise IntegrityError(
                f"{where}: its verification is not that of chunks {term.start} to {term.end}"
            )

    def _xorb(self, name: str) -> KeptXorb:
        if self._open is None or self._name != name:
            self._close()
            try:
                self._open = KeptXorb(self._folder / name)
            except FileNotFoundError:
                raise XorbGone(
                    f"xorb {name} is not kept here",
                    hint="Upload the files again: the next upload sends everything.",
                ) from None
            self._name = name
        return self._open

    def _close(self) -> None:
        if self._open is not None:
            self._open.close()
            self._open = None
