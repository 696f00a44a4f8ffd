"""What is asked of a client's reading. Of its sending: strangers, on the real servers."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from typing import Any

import pytest

from adapthub.web.protocol import BoundedProtocol
from tests.web.raw import connected, read_all
from tests.web.serving import answer, served

ASK = b"GET / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"


def test_a_client_that_does_not_read_is_cut_off() -> None:
    """And the application hears of it; while one that reads slowly, but reads, is not."""
    gone = threading.Event()

    async def endless(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while not gone.is_set():
            await send({"type": "http.response.body", "body": b"x" * (1 << 16), "more_body": True})
            listening = asyncio.create_task(receive())
            done, _ = await asyncio.wait({listening}, timeout=0)
            if done and listening.result()["type"] == "http.disconnect":
                gone.set()
            listening.cancel()

    with served(endless, seconds=0.5) as server, connected(server) as client:
        client.sendall(ASK)
        for _ in range(20):  # twice as long as it may let the answer lie
            time.sleep(0.05)
            for _ in range(8):
                assert client.recv(1 << 20)
        assert not gone.is_set()
        assert gone.wait(30)


def test_more_that_lies_unread_may_lie_longer() -> None:
    piece = b"x" * (32 << 20)  # far more than lies between a server and its client

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await answer(send, piece)

    with served(app, seconds=0.1, rate=1 << 20) as server, connected(server) as client:
        client.sendall(ASK)
        time.sleep(0.5)
        assert read_all(client).endswith(piece)


def test_answers_are_sent_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """No answer waits for the client's acknowledgement of the one before."""
    seen: list[int] = []
    made = BoundedProtocol.connection_made

    def connection_made(self: BoundedProtocol, transport: asyncio.Transport) -> None:
        made(self, transport)
        connection = transport.get_extra_info("socket")
        seen.append(connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await answer(send, b"")

    monkeypatch.setattr(BoundedProtocol, "connection_made", connection_made)
    with served(app) as server, connected(server) as client:
        client.sendall(ASK)
        assert read_all(client).startswith(b"HTTP/1.1 200 ")
    assert seen
    assert all(seen)
