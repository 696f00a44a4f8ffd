"""An application served as our servers serve theirs."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from functools import partial
from math import inf
from typing import Any

from starlette.types import ASGIApp

from adapthub.web.listening import listener
from adapthub.web.protocol import BoundedProtocol
from adapthub.web.running import Running, run
from tests.web.live import in_a_thread


def served(
    app: ASGIApp,
    *,
    seconds: float = 30,
    rate: float = inf,
    drain: Callable[[], Awaitable[None]] | None = None,
) -> AbstractContextManager[Running[None]]:
    """Within: it answers."""
    protocol = partial(
        BoundedProtocol, seconds=seconds, rate=rate, error_body=lambda message: {"error": message}
    )

    def serve(announce: Callable[[Running[None]], None]) -> None:
        with listener("127.0.0.1", 0) as port:
            asyncio.run(run(app, None, port, protocol, announce=announce, drain=drain, tails=5))

    return in_a_thread(serve)


async def answer(send: Any, body: bytes) -> None:
    """Send one answer, of a length that is known."""
    headers = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
