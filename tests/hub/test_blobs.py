"""Blobs of every kind of place: whole or not there, in bounded pieces, by range."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import obstore.store
import pytest

from adapthub.adapters.errors import IntegrityError, InvalidSettings, StorageError
from adapthub.adapters.files import sha256_bytes
from adapthub.hub.storage import object_blobs
from adapthub.hub.storage.blobs import Blobs
from adapthub.hub.storage.folder_blobs import FolderBlobs
from adapthub.hub.storage.object_blobs import ObjectBlobs
from adapthub.hub.storage.places import open_blobs

DATA = bytes(range(256)) * 12_345
SHA256 = sha256_bytes(DATA)
PLACES: dict[str, Callable[[Path], Blobs]] = {
    "folder": lambda folder: FolderBlobs(folder / "blobs"),
    "objects": lambda _: ObjectBlobs(obstore.store.MemoryStore(), "memory"),
}


@pytest.fixture(params=PLACES)
def blobs(request: pytest.FixtureRequest, tmp_path: Path) -> Blobs:
    return PLACES[request.param](tmp_path)


def names(blobs: Blobs) -> list[str]:
    return [entry["path"] for page in obstore.list(blobs._store) for entry in page]


async def pieces(blobs: Blobs, start: int, end: int) -> list[bytes]:
    return [piece async for piece in await blobs.stream(SHA256, start, end)]


def test_piece_by_piece(blobs: Blobs) -> None:
    assert blobs.size(SHA256) is None
    with blobs.incoming() as incoming:
        for start in range(0, len(DATA), 100_000):
            incoming.write(DATA[start : start + 100_000])
        incoming.keep(SHA256, origin="test")
    assert names(blobs) == [f"{SHA256[:2]}/{SHA256}"]
    assert blobs.size(SHA256) == len(DATA)
    assert blobs.get(SHA256, origin="test") == DATA
    assert blobs.read(SHA256, 1000, 77) == DATA[1000:1077]
    assert b"".join(blobs.pieces(SHA256)) == DATA
    got = asyncio.run(pieces(blobs, 5, len(DATA) - 5))
    assert b"".join(got) == DATA[5:-5]
    assert asyncio.run(pieces(blobs, 7, 7)) == []


def test_what_is_not_what_it_should_be_is_gone(blobs: Blobs) -> None:
    with blobs.incoming() as incoming:
        incoming.write(DATA[1:])
        with pytest.raises(IntegrityError, match=f"test has the sha256 .*, not {SHA256}"):
            incoming.keep(SHA256, origin="test")
    with blobs.incoming() as incoming:
        incoming.write(DATA)  # and not kept
    assert names(blobs) == []
    with pytest.raises(IntegrityError, match="changed while"):
        blobs.put(SHA256, b"other", origin="test")


def test_what_is_lost(blobs: Blobs) -> None:
    with pytest.raises(IntegrityError, match="lost"):
        blobs.read(SHA256, 0, 1)
    with pytest.raises(IntegrityError, match="lost"):
        asyncio.run(pieces(blobs, 0, 1))
    with pytest.raises(IntegrityError, match="lost"):
        list(blobs.pieces(SHA256))
    blobs.put(SHA256, DATA, origin="test")
    blobs.put(SHA256, DATA, origin="test")
    assert blobs.get(SHA256, origin="test") == DATA


def test_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(open_blobs(str(tmp_path / "a")), FolderBlobs)
    with pytest.raises(InvalidSettings, match="s3://bucket/prefix"):
        open_blobs("ftp://somewhere")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    with pytest.raises(StorageError, match="s3://bucket"):
        open_blobs("s3://bucket/prefix")


def test_what_s3_does_not_copy_goes_through_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(object_blobs, "_COPIED_BYTES", len(DATA) - 1)
    monkeypatch.setattr(obstore, "copy", lambda *_: pytest.fail("S3 copies 5 GiB at most"))
    blobs = PLACES["objects"](tmp_path)
    with blobs.incoming() as incoming:
        incoming.write(DATA)
        incoming.keep(SHA256, origin="test")
    assert names(blobs) == [f"{SHA256[:2]}/{SHA256}"]
    assert blobs.get(SHA256, origin="test") == DATA
