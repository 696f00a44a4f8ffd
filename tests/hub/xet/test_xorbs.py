"""Xorbs of strangers: what is well formed is kept and read back, the rest is refused with one of our errors."""

from __future__ import annotations

import os
import tempfile
from contextlib import closing
from pathlib import Path

import lz4.frame
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapthub.adapters.errors import AdaptHubError, IntegrityError, InvalidData
from adapthub.hub.server.xet.chunks import CHUNK_BYTES, Scheme
from adapthub.hub.server.xet.hashes import from_hex
from adapthub.hub.server.xet.limits import XetLimits
from adapthub.hub.server.xet.xorbs import DamagedXorb, KeptXorb, Sealing
from tests.hub.xet.encoding import FOOTER, Xorb, encode_chunk, encode_xorb, header

LIMITS = XetLimits()

chunks = st.lists(st.binary(min_size=1, max_size=40), min_size=1, max_size=30)
schemes = st.lists(st.sampled_from(Scheme), min_size=1, max_size=5)


def seal(path: Path, claimed: bytes, limits: XetLimits, *, piece: int = 13) -> None:
    """The xorb in `path`, as if it came in pieces of so many bytes."""
    sealing = Sealing(claimed, limits)
    data = path.read_bytes()
    for start in range(0, len(data), piece):
        sealing.take(memoryview(data)[start : start + piece])
    sealing.seal(path)


def sealed(path: Path, xorb: Xorb, limits: XetLimits = LIMITS) -> KeptXorb:
    path.write_bytes(xorb.data)
    seal(path, from_hex(xorb.name), limits)
    return KeptXorb(path)


def read_all(path: Path) -> list[bytes]:
    with closing(KeptXorb(path)) as kept:
        return list(kept.unpacked(0, 2))


def refused(data: bytes, match: str, tmp_path: Path, limits: XetLimits = LIMITS) -> None:
    (tmp_path / "xorb").write_bytes(data)
    with pytest.raises(InvalidData, match=match):
        seal(tmp_path / "xorb", bytes(32), limits)


@given(chunks=chunks, schemes=schemes, footer=st.sampled_from([b"", FOOTER]), data=st.data())
def test_any_range_is_read_back(
    chunks: list[bytes], schemes: list[Scheme], footer: bytes, data: st.DataObject
) -> None:
    start = data.draw(st.integers(0, len(chunks) - 1))
    end = data.draw(st.integers(start + 1, len(chunks)))
    with tempfile.TemporaryDirectory() as folder:
        kept = sealed(Path(folder) / "xorb", encode_xorb(chunks, schemes, footer=footer))
        assert kept.count == len(chunks)
        assert list(kept.unpacked(start, end)) == chunks[start:end]
        assert [place.unpacked for place in kept.places(start, end)] == list(map(len, chunks[start:end]))
        kept.close()


@given(st.binary(max_size=200))
def test_random_bytes_are_refused(data: bytes) -> None:
    with tempfile.NamedTemporaryFile() as stream:
        stream.write(data)
        stream.flush()
        with pytest.raises((InvalidData, IntegrityError)):
            seal(Path(stream.name), bytes(32), LIMITS)


@given(chunks=chunks, schemes=schemes, at=st.integers(0), value=st.integers(0, 255), cut=st.booleans())
def test_a_changed_or_cut_xorb_is_refused_or_the_same(
    chunks: list[bytes], schemes: list[Scheme], at: int, value: int, cut: bool
) -> None:
    xorb = encode_xorb(chunks, schemes)
    at %= len(xorb.data)
    data = xorb.data[:at] if cut else xorb.data[:at] + bytes([value]) + xorb.data[at + 1 :]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "xorb"
        path.write_bytes(data)
        try:
            seal(path, from_hex(xorb.name), LIMITS)
        except AdaptHubError:
            return
        kept = KeptXorb(path)
        assert list(kept.unpacked(0, kept.count)) == chunks
        kept.close()


def test_another_hash(tmp_path: Path) -> None:
    path = tmp_path / "xorb"
    path.write_bytes(encode_xorb([b"some", b"chunks"]).data)
    with pytest.raises(IntegrityError, match="send it again"):
        seal(path, from_hex(encode_xorb([b"others"]).name), LIMITS)


def test_malformed_chunks(tmp_path: Path) -> None:
    good = encode_chunk(b"good")
    frame = lz4.frame.compress(b"chunk")
    refused(b"", "no chunk", tmp_path)
    refused(FOOTER, "no chunk", tmp_path)
    refused(good + header(4, 0, 4, version=1) + b"data", "chunk 1: version 1", tmp_path)
    refused(header(4, 3, 4) + b"data", "compression 3 is unknown", tmp_path)
    refused(header(4, 0, 5) + b"data", "4 bytes packed and 5 unpacked", tmp_path)
    refused(header(4, 0, 4) + b"dat", "ends after 3 of 4 bytes", tmp_path)
    refused(good + good[:5], "chunk 1: ends after 5 of 8 bytes", tmp_path)
    refused(header(0, 0, 0), "0 bytes unpacked", tmp_path)
    refused(header(0, 1, 9), "0 bytes packed", tmp_path)
    refused(header(0xFFFFFF, 0, 0xFFFFFF), "16,777,215 bytes unpacked", tmp_path)
    refused(header(0xFFFFFF, 1, 5), "16,777,215 bytes packed", tmp_path)
    refused(header(9, 1, 9) + b"not a fra", "no LZ4 frame", tmp_path)
    refused(header(len(frame), 1, 6) + frame, "not one whole frame of 6 bytes", tmp_path)
    refused(header(len(frame), 1, 4) + frame, "not one whole frame of 4 bytes", tmp_path)
    refused(header(len(frame) - 4, 1, 5) + frame[:-4], "not one whole frame", tmp_path)
    refused(header(len(frame) + 1, 1, 5) + frame + b"x", "not one whole frame", tmp_path)


def test_bombs(tmp_path: Path) -> None:
    """A frame that unpacks to 60 MB, or says so, is not unpacked further than what its header allows."""
    bomb = lz4.frame.compress(bytes(60_000_000), store_size=True)
    refused(header(len(bomb), 1, CHUNK_BYTES) + bomb, "not one whole frame of 131,072 bytes", tmp_path)
    liar = bytearray(lz4.frame.compress(b"x", store_size=True))
    liar[6:14] = (1 << 60).to_bytes(
        8, "little"
    )  # the content size; the header's checksum no longer fits either
    refused(header(len(liar), 1, 1) + bytes(liar), "no LZ4 frame", tmp_path)


def test_bounds_of_a_xorb(tmp_path: Path) -> None:
    xorb = encode_xorb([bytes(100)] * 10, [Scheme.LZ4])
    sealed(tmp_path / "fits", xorb, XetLimits(xorb_chunks=10, xorb_unpacked_bytes=1000)).close()
    refused(xorb.data, "more than 9 chunks", tmp_path, XetLimits(xorb_chunks=9))
    refused(xorb.data, "unpacks to more than 999 bytes", tmp_path, XetLimits(xorb_unpacked_bytes=999))


@pytest.mark.parametrize("size", [0, 3, 10, 40])
def test_a_kept_xorb_that_lost_its_end(size: int, tmp_path: Path) -> None:
    path = tmp_path / "xorb"
    sealed(path, encode_xorb([b"first", b"second"])).close()
    os.truncate(path, size)
    with pytest.raises(DamagedXorb, match="Upload the files again"):
        read_all(path)


def test_a_kept_xorb_that_changed(tmp_path: Path) -> None:
    path = tmp_path / "xorb"
    sealed(path, encode_xorb([b"first", b"second"])).close()
    path.write_bytes(b"\xff" + path.read_bytes()[1:])
    with pytest.raises(DamagedXorb):
        read_all(path)
