"""The hashes of Xet: of a chunk, of a xorb over its chunks, of a range of chunks; and how a hash is written as text.

A hash is 32 bytes. Does not read xorbs or shards.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Sequence

from blake3 import blake3

from adapthub.adapters.errors import InvalidData

HASH_BYTES = 32
_CHUNK_KEY = bytes.fromhex("6697f5775b9550de3135cbaca597181c9de421109beb2b58b4d0b04b93adf229")
_NODE_KEY = bytes.fromhex("017ec5c7a5472996fd946666b48a02e65ddd536f37c76dd2f86352e64a53713f")
_RANGE_KEY = bytes.fromhex("7f1857d6ce56ed66127ff913e7a5c3f3a4cd26d5b5db49e64124987f28fb94c3")
_BRANCHING = 4  # a node of the tree ends after a hash that this divides, and has 2 to 2 * 4 + 1 children
_HEX = re.compile(r"[0-9a-f]{64}")


def chunk_hash(data: bytes) -> bytes:
    """The hash of a chunk's unpacked bytes."""
    return blake3(data, key=_CHUNK_KEY).digest()


def range_hash(hashes: bytes) -> bytes:
    """The hash of a range of chunks: over their hashes, one after the other."""
    return blake3(hashes, key=_RANGE_KEY).digest()


def xorb_hash(chunks: Sequence[tuple[bytes, int]]) -> bytes:
    """The hash of a xorb: the root of a tree over (hash, unpacked bytes) of its chunks, of which there is at least one."""
    level = list(chunks)
    while len(level) > 1:
        level = _next_level(level)
    return level[0][0]


def to_hex(value: bytes) -> str:
    """A hash as text: four little-endian 64-bit numbers in hex, which is not the hex of its bytes."""
    return "".join(f"{number:016x}" for number in struct.unpack("<4Q", value))


def from_hex(text: str) -> bytes:
    """A hash from its text. Raises InvalidData."""
    if not _HEX.fullmatch(text):
        raise InvalidData(f"{text[:80]!r} is not a hash of Xet", hint="Send 64 lower-case hex digits.")
    return struct.pack("<4Q", *(int(text[at : at + 16], 16) for at in range(0, 64, 16)))


def _next_level(level: Sequence[tuple[bytes, int]]) -> list[tuple[bytes, int]]:
    parents = []
    start = 0
    while start < len(level):
        end = _node_end(level, start)
        children = level[start:end]
        text = "".join(f"{to_hex(value)} : {size}\n" for value, size in children)
        parents.append((blake3(text.encode(), key=_NODE_KEY).digest(), sum(size for _, size in children)))
        start = end
    return parents


def _node_end(level: Sequence[tuple[bytes, int]], start: int) -> int:
    """One past the last child of the node that begins at `start`."""
    last = min(start + 2 * _BRANCHING + 1, len(level))
    for index in range(start + 2, last):
        if level[index][0][24] % _BRANCHING == 0:  # of the hash's last number, the lowest byte
            return index + 1
    return last
