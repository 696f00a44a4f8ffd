"""Shards of strangers: files and their terms, or one of our errors."""

from __future__ import annotations

import hashlib
import struct
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapthub.adapters.errors import InvalidData
from adapthub.hub.server.xet.limits import XetLimits
from adapthub.hub.server.xet.shards import WITH_SHA256, WITH_VERIFICATION, parse_shard
from tests.hub.xet.encoding import encode_file, encode_shard, encode_term

LIMITS = XetLimits(shard_chunks=2**40)

hexes = st.text("0123456789abcdef", min_size=64, max_size=64)
numbers = st.integers(0, 2**32 - 1)
terms = st.tuples(hexes, numbers, numbers, st.integers(0, 1 << 20), st.binary(min_size=32, max_size=32))
files = st.lists(st.tuples(hexes, st.lists(terms, min_size=1, max_size=4)), max_size=4)


def shard(files: list[tuple[str, list[tuple[str, int, int, int, bytes]]]]) -> bytes:
    return encode_shard(
        [encode_file(sha256, [encode_term(*term) for term in terms]) for sha256, terms in files]
    )


def read(data: bytes) -> list[tuple[str, list[tuple[str, int, int, int, bytes]]]]:
    return [
        (file.sha256, [(t.xorb, t.start, t.end, t.unpacked, t.range_hash) for t in file.terms()])
        for file in parse_shard(data, LIMITS)
    ]


@given(files)
def test_files_are_read_back(files: list[tuple[str, list[tuple[str, int, int, int, bytes]]]]) -> None:
    assert read(shard(files)) == files


@given(files, st.integers(0), st.integers(0, 255))
def test_a_changed_or_cut_shard_raises_only_our_error(
    files: list[tuple[str, list[tuple[str, int, int, int, bytes]]]], at: int, value: int
) -> None:
    data = shard(files)
    at %= len(data)
    for changed in (data[:at], data[:at] + bytes([value]) + data[at + 1 :]):
        with suppress(InvalidData):
            read(changed)


@given(st.binary(max_size=300))
def test_random_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(InvalidData):
        read(data)
    body = shard([])[:48] + data
    with suppress(InvalidData):
        read(body)


def test_what_is_no_shard() -> None:
    sha256 = hashlib.sha256(b"").hexdigest()
    term = encode_term(sha256, 0, 1, 5, bytes(32))
    good = encode_file(sha256, [term])
    with pytest.raises(InvalidData, match="another tag"):
        read(encode_shard([good], tag=b"x" * 32))
    with pytest.raises(InvalidData, match="version 3"):
        read(encode_shard([good], version=3))
    with pytest.raises(InvalidData, match="no verification"):
        read(encode_shard([encode_file(sha256, [term], WITH_SHA256)]))
    with pytest.raises(InvalidData, match="no sha256"):
        read(encode_shard([encode_file(sha256, [term], WITH_VERIFICATION)]))
    with pytest.raises(InvalidData, match="no term"):
        read(encode_shard([encode_file(sha256, [])]))
    with pytest.raises(InvalidData, match="counts more entries than it has"):
        read(encode_shard([struct.pack("<32sII8x", bytes(32), WITH_VERIFICATION | WITH_SHA256, 2**32 - 1)]))


def test_bounds_of_a_shard() -> None:
    file = encode_file("0" * 64, [encode_term("0" * 64, 0, 1, 500, bytes(32))] * 2)
    body = encode_shard([file] * 3)
    assert len(parse_shard(body, XetLimits(shard_files=3, shard_unpacked_bytes=3000))) == 3
    with pytest.raises(InvalidData, match="more than 2 files"):
        parse_shard(body, XetLimits(shard_files=2))
    with pytest.raises(InvalidData, match="3,000 bytes, more than 2,999"):
        parse_shard(body, XetLimits(shard_unpacked_bytes=2999))


def test_many_chunks_are_refused_however_small() -> None:
    terms = [("0" * 64, 0, 16_384, 16_384, bytes(32))] * 600
    with pytest.raises(InvalidData, match="9,830,400 chunks"):
        parse_shard(shard([("1" * 64, terms)]), XetLimits())
    assert len(parse_shard(shard([("1" * 64, terms[:500])]), XetLimits())) == 1
