"""HTTP as uvicorn speaks it, bounded where uvicorn is not: in the size of headers, and in the time that a client may take to
send them and to read what is sent to it.

Bodies are bounded by the application (bodies). Refusals have the shape of the server's other errors.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from http import HTTPStatus
from math import inf
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

_HEADER_BYTES = 64 << 10  # of one request's line and headers


class BoundedProtocol(HttpToolsProtocol):
    """One connection. A request's headers must have come `seconds` after the connection was made, or after the first bytes
    behind the answer before, the rest of a body that nobody wanted included. A client that does not read what waits for it
    is cut off after as long, and a second more for every `rate` bytes of that. `error_body`: an error's JSON, by its
    message."""

    def __init__(
        self,
        *args: Any,
        seconds: float,
        rate: float = inf,
        error_body: Callable[[str], Mapping[str, Any]],
        **options: Any,
    ) -> None:
        super().__init__(*args, **options)
        self._seconds = seconds
        self._rate = rate
        self._error_body = error_body
        self._coming: asyncio.TimerHandle | None = None  # until the headers are there
        self._reading: asyncio.TimerHandle | None = None  # until the client has read
        self._header_bytes = 0
        self._in_body = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Called by the event loop."""
        super().connection_made(transport)
        self._coming = self.loop.call_later(self._seconds, self._too_slow)

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the event loop."""
        super().connection_lost(exc)
        for timer in (self._coming, self._reading):
            if timer is not None:
                timer.cancel()

    def data_received(self, data: bytes) -> None:
        """Called by the event loop."""
        if self._coming is None and not self._answering:
            self._coming = self.loop.call_later(self._seconds, self._too_slow)
        if not self._in_body:
            self._header_bytes += len(data)
        super().data_received(data)
        if not self._in_body and self._header_bytes > _HEADER_BYTES:
            self._refuse(431, f"the headers are larger than {_HEADER_BYTES:,} bytes")

    def on_headers_complete(self) -> None:
        """Called by the parser."""
        if self._coming is not None:
            self._coming.cancel()
            self._coming = None
        self._header_bytes = 0
        self._in_body = True
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """Called by the parser."""
        self._in_body = False
        super().on_message_complete()

    def pause_writing(self) -> None:
        """Called by the event loop."""
        super().pause_writing()
        seconds = self._seconds + self.transport.get_write_buffer_size() / self._rate
        self._reading = self.loop.call_later(seconds, self.transport.abort)

    def resume_writing(self) -> None:
        """Called by the event loop."""
        super().resume_writing()
        if self._reading is not None:
            self._reading.cancel()
            self._reading = None

    def send_400_response(self, msg: str) -> None:
        """Called by uvicorn for what is no HTTP."""
        self._refuse(400, msg)

    @property
    def _answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _too_slow(self) -> None:
        self._coming = None
        if not self._answering:  # else it has sent the next request ahead of its turn
            self._refuse(408, f"the request's headers took longer than {self._seconds:g} s")

    def _refuse(self, status: int, message: str) -> None:
        if self.transport.is_closing():
            return
        body = json.dumps(self._error_body(message)).encode()
        head = (
            f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
        )
        if not (self._answering or self._in_body):  # else there is or was another answer
            self.transport.write(head.encode() + body)
        self.transport.close()
