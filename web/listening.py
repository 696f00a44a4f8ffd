"""The port that a server listens at, taken before anything is loaded, and its address as a URL. Nobody can connect yet."""

from __future__ import annotations

import errno
import os
import socket

from adapthub.adapters.errors import Conflict, InvalidSettings


def listener(host: str, port: int) -> socket.socket:
    """A socket bound there; `port` 0: any free one.

    Raises Conflict where the port is taken, InvalidSettings for a host that is none.
    """
    where = f"port {port} of {host}"
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (socket.gaierror, OverflowError) as error:
        raise InvalidSettings(f"{where} cannot be served: {error}") from error
    # asyncio sends small answers at once (TCP_NODELAY) only where the protocol is told.
    bound = socket.socket(family, kind, protocol)
    try:
        if os.name == "posix":
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except OSError as error:
        bound.close()
        if error.errno == errno.EADDRINUSE:
            raise Conflict(f"{where} is in use", hint="Choose another port; 0 is any free one.") from error
        raise InvalidSettings(f"{where} cannot be served: {error.strerror or error}") from error
    return bound


def address_of(bound: socket.socket) -> str:
    """The URL of what listens there."""
    host, port = bound.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
