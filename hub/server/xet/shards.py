"""Shards: which ranges of chunks of which xorbs, one after the other, are which file.

    header (48 bytes): tag, version 2, bytes of the footer
    a file: its hash, flags, number of terms | 48 bytes a term | 48 bytes a verification | its sha256
    ... until a hash of 0xFF
    then xorbs' chunks and a footer

Reads the files. Not what follows them: it tells servers that offer their chunks to other clients what they hold. Does not
look at xorbs.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice

from adapthub.adapters.errors import InvalidData
from adapthub.hub.server.xet.hashes import to_hex
from adapthub.hub.server.xet.limits import XetLimits

TAG = b"HFRepoMetaData\0" + bytes.fromhex("556967456a7b815783a5bdd95ccdd14aa9")
VERSION = 2
WITH_VERIFICATION = 1 << 31
WITH_SHA256 = 1 << 30
END = b"\xff" * 32
HEADER = struct.Struct("<32sQQ")
FILE = struct.Struct("<32sII8x")
TERM = struct.Struct("<32sIIII")
VERIFICATION = struct.Struct("<32s16x")
SHA256 = struct.Struct("<32s16x")

Buffer = bytes | mmap.mmap


@dataclass(frozen=True, slots=True)
class Term:
    """A part of a file: the chunks `start` to `end` (exclusive) of the xorb with the hash `xorb`, in hex.

    They unpack to `unpacked` bytes, and the hash over their hashes is `range_hash`.
    """

    xorb: str
    start: int
    end: int
    unpacked: int
    range_hash: bytes


@dataclass(frozen=True, slots=True)
class FileEntry:
    """A file in a shard: its sha256 in hex, its size in bytes and its chunks, as the terms add them up."""

    sha256: str
    size: int
    chunks: int
    _shard: Buffer = field(repr=False)
    _first: int
    _count: int

    def terms(self) -> Iterator[Term]:
        """Its parts in order, read from the shard one by one: there may be a million."""
        verifications = self._first + self._count * TERM.size
        for index in range(self._count):
            xorb, _, unpacked, start, end = TERM.unpack_from(self._shard, self._first + index * TERM.size)
            (range_hash,) = VERIFICATION.unpack_from(self._shard, verifications + index * VERIFICATION.size)
            yield Term(to_hex(xorb), start, end, unpacked, range_hash)


def parse_shard(data: Buffer, limits: XetLimits) -> list[FileEntry]:
    """The files in a shard, which must outlive them. Raises InvalidData where it is malformed or beyond `limits`."""
    if len(data) < HEADER.size:
        raise InvalidData(f"the shard has {len(data)} bytes, its header alone has {HEADER.size}")
    tag, version, _ = HEADER.unpack_from(data)
    if tag != TAG:
        raise InvalidData("the body is not a shard: it begins with another tag")
    if version != VERSION:
        raise InvalidData(f"version {version} of the shard's format is unknown, only {VERSION} is known")
    files = list(islice(_files(data), limits.shard_files + 1))
    if len(files) > limits.shard_files:
        raise InvalidData(
            f"the shard has more than {limits.shard_files:,} files", hint="Upload fewer files at once."
        )
    total = sum(file.size for file in files)
    if total > limits.shard_unpacked_bytes:
        raise InvalidData(
            f"the shard's files have {total:,} bytes, more than {limits.shard_unpacked_bytes:,}",
            hint="Upload fewer files at once.",
        )
    chunks = sum(file.chunks for file in files)
    if chunks > limits.shard_chunks:
        raise InvalidData(
            f"the shard's files have {chunks:,} chunks, more than {limits.shard_chunks:,}",
            hint="Upload fewer files at once.",
        )
    return files


def _files(data: Buffer) -> Iterator[FileEntry]:
    at = HEADER.size
    while True:
        _require(data, at, FILE.size)
        file_hash, flags, count = FILE.unpack_from(data, at)
        if file_hash == END:
            return
        if not flags & WITH_VERIFICATION:
            raise InvalidData(f"the shard's file {to_hex(file_hash)} has no verification of its terms")
        if not flags & WITH_SHA256:
            raise InvalidData(
                f"the shard's file {to_hex(file_hash)} has no sha256, which this hub stores it under"
            )
        if not count:
            raise InvalidData(
                f"the shard's file {to_hex(file_hash)} has no term: an empty file is not uploaded over Xet"
            )
        first = at + FILE.size
        at = first + count * (TERM.size + VERIFICATION.size)
        _require(data, first, at - first + SHA256.size)
        (sha256,) = SHA256.unpack_from(data, at)
        at += SHA256.size
        size = chunks = 0
        for index in range(count):
            _, _, unpacked, start, end = TERM.unpack_from(data, first + index * TERM.size)
            size += unpacked
            chunks += max(0, end - start)
        yield FileEntry(to_hex(sha256), size, chunks, data, first, count)


def _require(data: Buffer, start: int, size: int) -> None:
    if start + size > len(data):
        raise InvalidData(
            f"the shard ends after {len(data):,} bytes, within what begins at byte {start:,}",
            hint="It was cut off, or counts more entries than it has: send it again.",
        )
