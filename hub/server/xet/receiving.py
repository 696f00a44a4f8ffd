"""Bodies to files: bounded in size and time, and a few hundred kilobytes in memory whatever their size."""

from __future__ import annotations

from anyio.to_thread import run_sync
from starlette.requests import Request

from adapthub.hub.server.xet.kept import Incoming
from adapthub.web.bodies import pieces

_BLOCK_BYTES = 1 << 20


async def receive(request: Request, incoming: Incoming, *, limit: int, seconds: float) -> None:
    """Write the body into `incoming`.

    Raises HTTPException: 413 for more than `limit` bytes, 408 for longer than `seconds`.
    """
    waiting = bytearray()
    async for piece in pieces(request, limit, seconds=seconds):
        waiting += piece
        if len(waiting) >= _BLOCK_BYTES:
            await run_sync(incoming.write, bytes(waiting))
            waiting.clear()
    await run_sync(incoming.write, bytes(waiting))
