"""One chunk of a xorb: its 8-byte header, and its bytes unpacked within the bounds of the format.

    0        version, 0
    1..3     packed bytes, little-endian
    4        scheme: 0 as it is, 1 an LZ4 frame, 2 an LZ4 frame of bytes grouped by their place in groups of four
    5..7     unpacked bytes, little-endian

Does not know where chunks lie, and checks no hash.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy
from lz4.frame import LZ4FrameDecompressor

from adapthub.adapters.errors import InvalidData

HEADER_BYTES = 8
CHUNK_BYTES = 128 * 1024  # the most that a chunk may be, unpacked
_PACKED_BYTES = 2 * CHUNK_BYTES
_GROUP = 4


class Scheme(IntEnum):
    """How a chunk is packed."""

    PLAIN = 0
    LZ4 = 1
    GROUPED_LZ4 = 2


@dataclass(frozen=True, slots=True)
class ChunkHeader:
    """How a chunk is packed, its bytes in the xorb after this header, and its bytes unpacked: 1 to 131,072."""

    scheme: Scheme
    packed: int
    unpacked: int


def parse_header(data: bytes, *, where: str) -> ChunkHeader:
    """The header in the eight bytes `data`. Raises InvalidData, naming `where`."""
    version, scheme = data[0], data[4]
    packed = int.from_bytes(data[1:4], "little")
    unpacked = int.from_bytes(data[5:8], "little")
    if version != 0:
        raise InvalidData(f"{where}: version {version} of the format is unknown, only 0 is known")
    if scheme > max(Scheme):
        raise InvalidData(f"{where}: compression {scheme} is unknown, only 0, 1 and 2 are known")
    if not 1 <= unpacked <= CHUNK_BYTES:
        raise InvalidData(f"{where}: {unpacked:,} bytes unpacked, must be 1 to {CHUNK_BYTES:,}")
    if not 1 <= packed <= _PACKED_BYTES:
        raise InvalidData(f"{where}: {packed:,} bytes packed, must be 1 to {_PACKED_BYTES:,}")
    if scheme == Scheme.PLAIN and packed != unpacked:
        raise InvalidData(f"{where}: not compressed, but {packed:,} bytes packed and {unpacked:,} unpacked")
    return ChunkHeader(Scheme(scheme), packed, unpacked)


def unpack(header: ChunkHeader, packed: bytes, *, where: str) -> bytes:
    """The chunk's own bytes, `header.unpacked` of them. Raises InvalidData, naming `where`."""
    if header.scheme is Scheme.PLAIN:
        return packed
    data = _decompress(packed, header.unpacked, where=where)
    return _ungrouped(data) if header.scheme is Scheme.GROUPED_LZ4 else data


def _decompress(packed: bytes, size: int, *, where: str) -> bytes:
    frame = LZ4FrameDecompressor()
    try:
        # One byte more than is right: a frame that holds more is seen, and never unpacked.
        data: bytes = frame.decompress(packed, max_length=size + 1)
    except RuntimeError as error:
        raise InvalidData(f"{where}: no LZ4 frame ({error})") from error
    if len(data) != size or not frame.eof or frame.unused_data:
        raise InvalidData(f"{where}: the LZ4 frame is not one whole frame of {size:,} bytes")
    return data


def _ungrouped(data: bytes) -> bytes:
    """Bytes 0, 4, 8 ... come first, then 1, 5, 9 ..., and so on: put back in order."""
    count, rest = divmod(len(data), _GROUP)
    # Groups are joined as numbers of four bytes; the first `rest` places have a byte more, which comes last of all.
    starts = [place * count + min(place, rest) for place in range(_GROUP)]
    groups = numpy.zeros(count, "<u4")
    for start in reversed(starts):
        groups <<= 8
        groups |= numpy.frombuffer(data, numpy.uint8, count, start)
    return groups.tobytes() + bytes(data[start + count] for start in starts[:rest])
