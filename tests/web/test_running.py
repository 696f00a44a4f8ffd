"""How a server ends. With signals: tests of `adapt serve` and `adapt hub serve`, each in a process of its own."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

from tests.web.raw import connected, read_all
from tests.web.serving import answer, served

ASK = b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n"


class Slow:
    """Answers when it is `let`."""

    def __init__(self) -> None:
        self.asked = threading.Event()
        self.let = threading.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.asked.set()
        while not self.let.is_set():
            await asyncio.sleep(0.01)
        await answer(send, b"whole")


def test_what_runs_when_it_stops_is_answered() -> None:
    app = Slow()
    with served(app) as server, connected(server) as client:
        client.sendall(ASK)
        assert app.asked.wait(30)
        server.stop()
        server.stop()
        app.let.set()
        assert read_all(client).endswith(b"whole")
    server.stop()  # it has ended


def test_while_it_drains_it_answers() -> None:
    app, draining, drained = Slow(), threading.Event(), threading.Event()
    app.let.set()

    async def drain() -> None:
        draining.set()
        while not drained.is_set():
            await asyncio.sleep(0.01)

    with served(app, drain=drain) as server:
        server.stop()
        assert draining.wait(30)
        with connected(server) as client:
            client.sendall(ASK.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n"))
            assert read_all(client).endswith(b"whole")
        drained.set()
