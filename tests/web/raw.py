"""Raw HTTP, for what no client library sends."""

from __future__ import annotations

import socket
from typing import Any
from urllib.parse import urlsplit

from adapthub.web.running import Running


def connected(server: Running[Any]) -> socket.socket:
    """A connection of one's own."""
    address = urlsplit(server.address)
    assert address.hostname is not None
    return socket.create_connection((address.hostname, address.port or 80), timeout=30)


def answer_to(server: Running[Any], request: bytes) -> bytes:
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
