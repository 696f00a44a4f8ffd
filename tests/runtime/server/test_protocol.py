"""A client that does not read what it asked for is cut off, and the application hears of it."""

from __future__ import annotations

import asyncio
import socket
from functools import partial
from typing import Any, cast

import pytest
import uvicorn

from adapthub.runtime.server.lifecycle import Running
from adapthub.runtime.server.protocol import BoundedProtocol
from tests.runtime.server.recording import connected, read_all


def test_a_client_that_does_not_read_is_cut_off() -> None:
    """While one that reads slowly, but reads, is not."""

    async def endless(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while not gone.is_set():
            await send({"type": "http.response.body", "body": b"x" * (1 << 16), "more_body": True})
            listening = asyncio.create_task(receive())
            done, _ = await asyncio.wait({listening}, timeout=0)
            if done and listening.result()["type"] == "http.disconnect":
                gone.set()
            listening.cancel()

    async def serve() -> None:
        server = uvicorn.Server(
            uvicorn.Config(
                endless,
                port=0,
                http=cast("type[asyncio.Protocol]", partial(BoundedProtocol, seconds=0.5)),
                lifespan="off",
                log_config=None,
            )
        )
        serving = asyncio.create_task(server.serve())
        while not server.started:
            await asyncio.sleep(0.01)
        with socket.create_connection(server.servers[0].sockets[0].getsockname()[:2]) as client:
            client.sendall(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n")
            for _ in range(20):  # twice as long as it may let the answer lie
                await asyncio.sleep(0.05)
                for _ in range(8):
                    assert await asyncio.to_thread(client.recv, 1 << 20)
            assert not gone.is_set()
            async with asyncio.timeout(30):
                await gone.wait()
        server.should_exit = True
        await serving

    gone = asyncio.Event()
    asyncio.run(serve())


def test_answers_are_sent_at_once(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """No answer waits for the client's acknowledgement of the one before."""
    seen: list[int] = []
    made = BoundedProtocol.connection_made

    def connection_made(self: BoundedProtocol, transport: asyncio.Transport) -> None:
        made(self, transport)
        connection = transport.get_extra_info("socket")
        seen.append(connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))

    monkeypatch.setattr(BoundedProtocol, "connection_made", connection_made)
    with connected(server) as client:
        client.sendall(b"GET /health HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
        assert read_all(client).startswith(b"HTTP/1.1 200 ")
    assert seen
    assert all(seen)
