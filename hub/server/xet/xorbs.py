"""Xorbs: compressed chunks one after the other, received from strangers, then kept so that any range of them is found.

    received    chunk ... [XETBLOB, a footer]
    kept        chunk ... (end, unpacked bytes, hash) a chunk, number of chunks

`seal` checks every chunk and the hash of the whole, and turns the one into the other in place. The client's footer says
nothing that is not computed here, and is dropped. Reads one chunk at a time; does not know files or folders of xorbs.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
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


def seal(path: Path, claimed: bytes, limits: XetLimits) -> None:
    """Check the received xorb in `path`, which is to have the hash `claimed`, and add where its chunks lie.

    Raises InvalidData where it is malformed or beyond `limits`, IntegrityError where it has another hash.
    """
    name = f"xorb {to_hex(claimed)}"
    with path.open("r+b") as stream:
        places = list(_places(stream, name, limits))
        if not places:
            raise InvalidData(f"{name} has no chunk")
        actual = xorb_hash([(place.hash, place.unpacked) for place in places])
        if actual != claimed:
            raise IntegrityError(
                f"{name} holds chunks whose hash is {to_hex(actual)}",
                hint="It was damaged on the way, or named wrongly: send it again.",
            )
        stream.seek(places[-1].end)
        stream.truncate()
        stream.writelines(_PLACE.pack(*place) for place in places)
        stream.write(len(places).to_bytes(_COUNT_BYTES, "little"))
        stream.flush()
        os.fsync(stream.fileno())


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


def _places(stream: BinaryIO, name: str, limits: XetLimits) -> Iterator[Place]:
    unpacked = 0
    for index in range(limits.xorb_chunks + 1):
        if _at_end(stream):
            return
        if index == limits.xorb_chunks:
            raise InvalidData(
                f"{name} has more than {limits.xorb_chunks:,} chunks", hint="Send several xorbs."
            )
        data = _read_chunk(stream, f"{name}, chunk {index}")
        unpacked += len(data)
        if unpacked > limits.xorb_unpacked_bytes:
            most = limits.xorb_unpacked_bytes
            raise InvalidData(f"{name} unpacks to more than {most:,} bytes", hint="Send several xorbs.")
        yield Place(stream.tell(), len(data), chunk_hash(data))


def _at_end(stream: BinaryIO) -> bool:
    start = stream.tell()
    ahead = stream.read(len(_FOOTER))
    stream.seek(start)
    return not ahead or ahead == _FOOTER


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
