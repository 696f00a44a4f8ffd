"""Bodies to files: bounded in size and time, and a few hundred kilobytes in memory whatever their size."""

from __future__ import annotations

import asyncio

from anyio.to_thread import run_sync
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request

from adapthub.hub.server.xet.kept import Incoming

_BLOCK_BYTES = 1 << 20


async def receive(request: Request, incoming: Incoming, *, limit: int, seconds: float) -> None:
    """Write the body into `incoming`.

    Raises HTTPException: 413 for more than `limit` bytes, 408 for longer than `seconds`, 400 for a client that went away.
    """
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > limit:
        raise _too_large(limit)
    stream = request.stream()
    received = 0
    waiting = bytearray()
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
            break
        received += len(block)
        if received > limit:
            raise _too_large(limit)
        waiting += block
        if len(waiting) >= _BLOCK_BYTES:
            await run_sync(incoming.write, bytes(waiting))
            waiting.clear()
    await run_sync(incoming.write, bytes(waiting))


def _too_large(limit: int) -> HTTPException:
    return HTTPException(413, f"the body is larger than {limit:,} bytes")
