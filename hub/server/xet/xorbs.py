"""Xorbs: compressed chunks one after the other, received from strangers, then kept so that any range of them is found.

    received    chunk ... [XETBLOB, a footer]
    kept        chunk ... (end, unpacked bytes, hash) a chunk, number of chunks

`Sealing` checks every chunk while it comes, and then the hash of the whole, and turns the one into the other in place. The
client's footer says nothing that is not computed here, and is dropped. Holds one chunk at a time, and what came at once;
does not know files or folders of xorbs.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, NamedTuple

from adapthub.adapters.errors import IntegrityError, InvalidData, StorageError
from adapthub.hub.server.xet.chunks import HEADER_BYTES, parse_header, unpack
from adapthub.hub.server.xet.hashes import chunk_hash, to_hex, xorb_hash
from adapthub.hub.server.xet.limits import XetLimits

_FOOTER = b"XETBLOB"
_PLACE = struct.Struct("<II32s")
_COUNT_BYTES = 4


class Place(NamedTuple):
    """A chunk in a kept xorb: one past its last byte, its bytes unpacked, its hash."""

    end: int
    unpacked: int
    hash: bytes


class DamagedXorb(StorageError):
    """A kept xorb is not what was sealed: the disk has changed it."""


class Sealing:
    """A xorb that is to have the hash `claimed`: its chunks are checked while it comes, then its file is sealed."""

    def __init__(self, claimed: bytes, limits: XetLimits) -> None:
        self._claimed = claimed
        self._name = f"xorb {to_hex(claimed)}"
        self._limits = limits
        self._places: list[Place] = []
        self._unpacked = 0
        self._rest = bytearray()  # that came of a chunk which is not whole yet
        self._has_ended = False  # its footer has begun
        self._wrong: InvalidData | None = None

    def take(self, data: bytes | memoryview) -> None:
        """The next bytes. What is wrong with them is raised by `seal`: whoever still sends would not see why."""
        if self._has_ended or self._wrong is not None:
            return
        self._rest += data
        try:
            taken = self._take_chunks()
        except InvalidData as error:
            self._wrong = error
            taken = len(self._rest)
        del self._rest[:taken]

    def seal(self, path: Path) -> None:
        """Check that all that came was a xorb of that hash, and add to it, in `path`, where its chunks lie.

        Raises InvalidData where it is malformed or beyond the limits, IntegrityError where it has another hash.
        """
        self._check()
        with path.open("r+b") as stream:
            stream.seek(self._places[-1].end)
            stream.truncate()
            stream.writelines(_PLACE.pack(*place) for place in self._places)
            stream.write(len(self._places).to_bytes(_COUNT_BYTES, "little"))
            stream.flush()
            os.fsync(stream.fileno())

    def _check(self) -> None:
        if self._wrong is not None:
            raise self._wrong
        if self._rest and not self._has_ended:
            _read_chunk(
                BytesIO(self._rest), f"{self._name}, chunk {len(self._places)}"
            )  # raises: it is cut off
        if not self._places:
            raise InvalidData(f"{self._name} has no chunk")
        actual = xorb_hash([(place.hash, place.unpacked) for place in self._places])
        if actual != self._claimed:
            raise IntegrityError(
                f"{self._name} holds chunks whose hash is {to_hex(actual)}",
                hint="It was damaged on the way, or named wrongly: send it again.",
            )

    def _take_chunks(self) -> int:
        """Take every chunk that is whole; the bytes that they have."""
        begin = self._places[-1].end if self._places else 0
        at = 0
        with memoryview(self._rest) as rest:
            while at < len(rest):
                self._has_ended = rest[at : at + len(_FOOTER)] == _FOOTER
                if self._has_ended or len(rest) - at < HEADER_BYTES:
                    break
                where = f"{self._name}, chunk {len(self._places)}"
                if len(self._places) == self._limits.xorb_chunks:
                    most = self._limits.xorb_chunks
                    raise InvalidData(
                        f"{self._name} has more than {most:,} chunks", hint="Send several xorbs."
                    )
                header = parse_header(bytes(rest[at : at + HEADER_BYTES]), where=where)
                end = at + HEADER_BYTES + header.packed
                if end > len(rest):
                    break
                data = unpack(header, bytes(rest[at + HEADER_BYTES : end]), where=where)
                self._count(len(data))
                self._places.append(Place(begin + end, len(data), chunk_hash(data)))
                at = end
        return at

    def _count(self, unpacked: int) -> None:
        self._unpacked += unpacked
        most = self._limits.xorb_unpacked_bytes
        if self._unpacked > most:
            raise InvalidData(f"{self._name} unpacks to more than {most:,} bytes", hint="Send several xorbs.")


class KeptXorb:
    """A sealed xorb, open for reading until it is closed. Raises DamagedXorb where the disk has changed it."""

    def __init__(self, path: Path) -> None:
        self._name = f"xorb {path.name}"
        self._stream = path.open("rb")
        size = self._stream.seek(0, os.SEEK_END)
        self._stream.seek(max(0, size - _COUNT_BYTES))
        self.count = int.from_bytes(self._stream.read(_COUNT_BYTES), "little")
        self._table = size - _COUNT_BYTES - self.count * _PLACE.size
        if self._table < 0:
            self._stream.close()
            raise self._damaged()

    def close(self) -> None:
        """Close the file."""
        self._stream.close()

    def places(self, start: int, end: int) -> list[Place]:
        """Where the chunks `start` to `end` (exclusive) lie; 0 <= start < end <= count."""
        self._stream.seek(self._table + start * _PLACE.size)
        data = self._stream.read((end - start) * _PLACE.size)
        if len(data) != (end - start) * _PLACE.size:
            raise self._damaged()
        return [Place(*fields) for fields in _PLACE.iter_unpack(data)]

    def unpacked(self, start: int, end: int) -> Iterator[bytes]:
        """The bytes of those chunks, one after the other."""
        self._stream.seek(self.places(start - 1, start)[0].end if start else 0)
        try:
            for index in range(start, end):
                yield _read_chunk(self._stream, f"{self._name}, chunk {index}")
        except InvalidData as error:  # it was sound when it was sealed
            raise self._damaged() from error

    def _damaged(self) -> DamagedXorb:
        return DamagedXorb(
            f"{self._name} was damaged in the hub's folder for uploads",
            hint="Upload the files again: the next upload sends everything.",
        )


def _read_chunk(stream: BinaryIO, where: str) -> bytes:
    header = parse_header(_read(stream, HEADER_BYTES, where), where=where)
    return unpack(header, _read(stream, header.packed, where), where=where)


def _read(stream: BinaryIO, size: int, where: str) -> bytes:
    data = stream.read(size)
    if len(data) != size:
        raise InvalidData(
            f"{where}: ends after {len(data):,} of {size:,} bytes", hint="It was cut off: send it again."
        )
    return data
