"""Bodies to files: bounded in size and time, and a few megabytes in memory whatever their size."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request

from adapthub.hub.server.write_behind import write_behind
from adapthub.hub.server.xet.kept import Incoming


async def receive(request: Request, incoming: Incoming, *, limit: int, seconds: float) -> None:
    """Write the body into `incoming`.

    Raises HTTPException: 413 for more than `limit` bytes, 408 for longer than `seconds`, 400 for a client that went away.
    """
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > limit:
        raise _too_large(limit)
    await write_behind(_blocks(request, limit, seconds), incoming.write)


async def _blocks(request: Request, limit: int, seconds: float) -> AsyncIterator[bytes]:
    stream = request.stream()
    received = 0
    deadline = asyncio.get_running_loop().time() + seconds
    while True:
        try:
            async with asyncio.timeout_at(deadline):
                block = await anext(stream, None)
        except TimeoutError:
            raise HTTPException(
                408, f"the body took longer than {seconds:g} s", {"Connection": "close"}
            ) from None
        except ClientDisconnect:
            raise HTTPException(400, "the client went away before its body ended") from None
        if block is None:
            return
        received += len(block)
        if received > limit:
            raise _too_large(limit)
        yield block


def _too_large(limit: int) -> HTTPException:
    return HTTPException(413, f"the body is larger than {limit:,} bytes")
