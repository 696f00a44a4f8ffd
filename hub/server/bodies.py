"""Bodies of requests, read within bounds of size and time. Does not parse them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from starlette.exceptions import HTTPException
from starlette.requests import Request

from adapthub.hub.server.serving import Serving


async def read_body(request: Request, most: int) -> bytes:
    """The whole body, of at most `most` bytes. Raises HTTPException as `pieces`."""
    return b"".join([piece async for piece in pieces(request, most)])


async def pieces(request: Request, most: int) -> AsyncIterator[bytes]:
    """The body as it comes.

    Raises HTTPException: 413 where it has more than `most` bytes, before more than that was read; 408 where it takes longer
    than the server's `body_seconds` and comes slower than its `body_rate`.
    """
    serving: Serving = request.app.state.serving
    slack, slowest = serving.limits.body_seconds, serving.limits.body_rate
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > most:
        raise too_large(most)
    stream = request.stream()
    began = asyncio.get_running_loop().time()
    size = 0
    while True:
        try:
            async with asyncio.timeout_at(began + slack + size / slowest):
                piece = await anext(stream, None)
        except TimeoutError:
            message = f"the body comes slower than {slowest:,} bytes a second"
            raise HTTPException(408, message, {"Connection": "close"}) from None
        if piece is None:
            return
        size += len(piece)
        if size > most:
            raise too_large(most)
        yield piece


def too_large(most: int) -> HTTPException:
    """The error for a body of more than `most` bytes."""
    return HTTPException(413, f"the body is larger than {most:,} bytes")
