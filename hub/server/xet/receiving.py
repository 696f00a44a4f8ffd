"""Bodies to files: bounded in size and time, and a few megabytes in memory whatever their size."""

from __future__ import annotations

from collections.abc import Callable

from starlette.requests import Request

from adapthub.hub.server.write_behind import write_behind
from adapthub.web.bodies import pieces


async def receive(
    request: Request, write: Callable[[memoryview], None], *, limit: int, seconds: float
) -> None:
    """`write` the body.

    Raises HTTPException: 413 for more than `limit` bytes, 408 for longer than `seconds`.
    """
    await write_behind(pieces(request, limit, seconds=seconds), write)
