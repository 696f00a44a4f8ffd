"""A gate that remembers what it was asked, for one caller; and raw HTTP, for what no client library sends."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from adapthub.runtime.server.lifecycle import Running
from adapthub.runtime.tenants.caller import Caller
from adapthub.runtime.tenants.gate import OpenGate, UsageRecord


@dataclass
class RecordingGate(OpenGate):
    """Lets everybody in. `refusing`: an error that it answers the next admission with."""

    records: list[UsageRecord] = field(default_factory=list)
    admitted: list[int] = field(default_factory=list)
    given_back: list[int] = field(default_factory=list)
    refusing: Exception | None = None
    failing: Exception | None = None  # what recording raises

    def admit(self, caller: Caller, tokens: int) -> None:
        if self.refusing is not None:
            raise self.refusing
        self.admitted.append(tokens)

    async def record(self, usage: UsageRecord, admitted: int) -> None:
        await asyncio.sleep(0)  # a real one waits for the disk
        if self.failing is not None:
            raise self.failing
        self.records.append(usage)
        self.given_back.append(admitted)


def eventually(condition: Callable[[], bool], what: str) -> None:
    """Wait for what another thread does."""
    last = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < last, what
        time.sleep(0.005)


def idle(server: Running) -> None:
    """Wait until nothing runs, and all is written down."""
    load = server.serving.runtime.generation
    eventually(
        lambda: server.serving.in_flight == 0 and load.load.running == 0 and load.load.waiting == 0,
        "something still runs",
    )


def connected(server: Running) -> socket.socket:
    """A connection of one's own."""
    address = urlsplit(server.address)
    assert address.hostname is not None
    return socket.create_connection((address.hostname, address.port or 80), timeout=30)


def answer_to(server: Running, request: bytes) -> bytes:
    """What comes back, until the server closes the connection."""
    with connected(server) as client:
        client.sendall(request)
        return read_all(client)


def read_all(client: socket.socket) -> bytes:
    parts = []
    try:
        while part := client.recv(1 << 16):
            parts.append(part)
    except ConnectionResetError:
        pass
    return b"".join(parts)
