"""The client's side of Xet's formats: xorbs and shards written as clients write them."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence
from dataclasses import dataclass

import lz4.frame

from adapthub.hub.server.xet.chunks import Scheme
from adapthub.hub.server.xet.hashes import chunk_hash, from_hex, range_hash, to_hex, xorb_hash
from adapthub.hub.server.xet.shards import END, TAG, VERSION, WITH_SHA256, WITH_VERIFICATION

FOOTER = b"XETBLOB\x01" + b"any footer" * 5


def header(packed: int, scheme: int, unpacked: int, *, version: int = 0) -> bytes:
    return bytes([version]) + packed.to_bytes(3, "little") + bytes([scheme]) + unpacked.to_bytes(3, "little")


def encode_chunk(data: bytes, scheme: Scheme = Scheme.PLAIN) -> bytes:
    packed = data
    if scheme is Scheme.GROUPED_LZ4:
        packed = b"".join(data[place::4] for place in range(4))
    if scheme is not Scheme.PLAIN:
        packed = lz4.frame.compress(packed)
    return header(len(packed), scheme, len(data)) + packed


@dataclass(frozen=True)
class Xorb:
    """Chunks, the xorb's bytes as they are sent, and its hash in hex."""

    chunks: tuple[bytes, ...]
    data: bytes

    @property
    def name(self) -> str:
        return to_hex(xorb_hash([(chunk_hash(chunk), len(chunk)) for chunk in self.chunks]))

    def term(self, start: int = 0, end: int | None = None) -> bytes:
        """A term and its verification, for chunks start to end."""
        end = len(self.chunks) if end is None else end
        chunks = self.chunks[start:end]
        verification = range_hash(b"".join(map(chunk_hash, chunks)))
        return encode_term(self.name, start, end, sum(map(len, chunks)), verification)


def encode_xorb(
    chunks: Sequence[bytes], schemes: Sequence[Scheme] = (Scheme.PLAIN,), *, footer: bytes = b""
) -> Xorb:
    packed = [encode_chunk(data, schemes[index % len(schemes)]) for index, data in enumerate(chunks)]
    return Xorb(tuple(chunks), b"".join(packed) + footer)


def encode_term(xorb: str, start: int, end: int, unpacked: int, verification: bytes) -> bytes:
    return struct.pack("<32sIIII", from_hex(xorb), 0, unpacked, start, end) + verification + bytes(16)


def encode_file(sha256: str, terms: Sequence[bytes], flags: int = WITH_VERIFICATION | WITH_SHA256) -> bytes:
    """A file of a shard; `terms` as `encode_term` writes them."""
    parts = [struct.pack("<32sII8x", b"\x11" * 32, flags, len(terms)), *(term[:48] for term in terms)]
    if flags & WITH_VERIFICATION:
        parts += [term[48:] for term in terms]
    if flags & WITH_SHA256:
        parts.append(from_hex(sha256) + bytes(16))
    return b"".join(parts)


def encode_shard(files: Sequence[bytes], *, tag: bytes = TAG, version: int = VERSION) -> bytes:
    bookend = END + bytes(16)
    return struct.pack("<32sQQ", tag, version, 0) + b"".join(files) + bookend + bookend


def shard_of(data: bytes, terms: Sequence[bytes]) -> bytes:
    """A shard of one file, `data`."""
    return encode_shard([encode_file(hashlib.sha256(data).hexdigest(), terms)])
