"""Bodies that are written while more comes: in order, not too far behind, and never after the end."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Iterator

import pytest

from adapthub.adapters.files import sha256_bytes
from adapthub.hub.server.write_behind import write_behind
from tests import asking
from tests.hub.server.live import HubServer

BATCH = 2**19
AHEAD = 4  # so many batches come before the first is written
WAIT = 10  # seconds, for what comes at once unless it never does


async def several(*pieces: bytes) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


@pytest.mark.parametrize(
    "pieces", [(), (b"", b"a"), (b"ab", b"c" * BATCH, b"d", b"e" * 3 * BATCH, b"f" * (BATCH - 1), b"gh")]
)
def test_every_piece_in_order(pieces: tuple[bytes, ...]) -> None:
    written = bytearray()
    asyncio.run(write_behind(several(*pieces), written.extend))
    assert written == b"".join(pieces)


def test_more_comes_while_a_batch_is_written() -> None:
    came = threading.Event()

    async def coming() -> AsyncIterator[bytes]:
        yield bytes(BATCH)
        came.set()
        yield b"more"

    seen: list[bool] = []
    asyncio.run(write_behind(coming(), lambda _: seen.append(came.wait(WAIT))))
    assert seen == [True, True]


def test_a_sender_waits_for_a_slow_disk() -> None:
    go_on = threading.Event()
    taken = 0

    async def coming() -> AsyncIterator[bytes]:
        nonlocal taken
        for _ in range(10):
            taken += 1
            yield bytes(BATCH)

    async def upload() -> int:
        uploading = asyncio.create_task(write_behind(coming(), lambda _: assert_true(go_on.wait(WAIT))))
        for _ in range(100):
            await asyncio.sleep(0)
        ahead = taken
        go_on.set()
        await uploading
        return ahead

    assert asyncio.run(upload()) == AHEAD
    assert taken == 10


def test_nothing_is_written_after_a_body_was_cut_off() -> None:
    cut, writing = threading.Event(), []

    async def coming() -> AsyncIterator[bytes]:
        yield bytes(BATCH)
        cut.set()
        raise ConnectionError("gone")

    def write(_: memoryview) -> None:
        writing.append("begins")
        assert cut.wait(WAIT)
        writing.append("ends")

    async def upload() -> list[str]:
        with pytest.raises(ConnectionError, match="gone"):
            await write_behind(coming(), write)
        return list(writing)

    assert asyncio.run(upload()) == ["begins", "ends"]


def test_a_disk_that_is_full_ends_the_body() -> None:
    taken = 0

    async def coming() -> AsyncIterator[bytes]:
        nonlocal taken
        for _ in range(10):
            taken += 1
            yield bytes(BATCH)

    def write(_: memoryview) -> None:
        raise OSError("full")

    with pytest.raises(OSError, match="full"):
        asyncio.run(write_behind(coming(), write))
    assert taken <= AHEAD + 1


def test_a_large_upload_that_is_cut_off_leaves_nothing(hub_server: HubServer) -> None:
    data = bytes(5 * BATCH)
    incoming = hub_server.data / "blobs" / "incoming"

    def cut_off() -> Iterator[bytes]:
        yield data[: 3 * BATCH]
        for _ in range(WAIT * 100):
            if any(path.stat().st_size >= BATCH for path in incoming.iterdir()):
                raise ConnectionError("the cable")
            time.sleep(0.01)

    url = f"{hub_server.url}/api/models/ada/ner/blobs/{sha256_bytes(data)}"
    headers = {"authorization": f"Bearer {hub_server.token()}", "content-length": str(len(data))}
    with pytest.raises(ConnectionError, match="the cable"):
        asking.put(url, content=cut_off(), headers=headers)
    for _ in range(WAIT * 100):
        if not list(incoming.iterdir()):
            break
        time.sleep(0.01)
    assert [path for path in incoming.parent.rglob("*") if path.is_file()] == []
    assert asking.put(url, content=data, headers=headers).status_code == 200
    assert hub_server.running.serving.store.blobs.get(sha256_bytes(data), origin="test") == data


def assert_true(value: bool) -> None:
    assert value
